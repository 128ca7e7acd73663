//! `Document`: named values, sorted by name.

use super::Value;
use crate::error::EncodeError;

/// Named values with unique names, kept sorted by the bytes of the names.
///
/// Lookup is a binary search. A document can grow past the limits of the format; encoding it then fails.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Document {
    fields: Vec<(String, Value)>,
}

impl Document {
    /// Returns a document without fields.
    pub const fn new() -> Self {
        Self { fields: Vec::new() }
    }

    /// Returns the document of these fields, which may come in any order; a name that occurs twice is an error.
    pub fn from_pairs<I, K, V>(pairs: I) -> Result<Self, EncodeError>
    where
        I: IntoIterator<Item = (K, V)>,
        K: Into<String>,
        V: Into<Value>,
    {
        let mut fields: Vec<(String, Value)> =
            pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = fields.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(EncodeError::Duplicate { name: pair[0].0.clone() });
        }
        Ok(Self { fields })
    }

    /// Wraps fields that are sorted and unique already.
    pub(crate) fn from_sorted(fields: Vec<(String, Value)>) -> Self {
        debug_assert!(fields.is_sorted_by(|a, b| a.0 < b.0), "names ascend");
        Self { fields }
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.fields.binary_search_by(|field| field.0.as_str().cmp(name))
    }

    /// Sets a field; returns the value it had.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        let (name, value) = (name.into(), value.into());
        // Fields mostly arrive sorted.
        if self.fields.last().is_none_or(|last| last.0 < name) {
            self.fields.push((name, value));
            return None;
        }
        match self.find(&name) {
            Ok(index) => self.fields.get_mut(index).map(|field| std::mem::replace(&mut field.1, value)),
            Err(index) => {
                self.fields.insert(index, (name, value));
                None
            }
        }
    }

    /// Takes a field out; returns its value.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        self.find(name).ok().map(|index| self.fields.remove(index).1)
    }

    /// Returns the value of a field.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.find(name).ok().and_then(|index| self.fields.get(index)).map(|field| &field.1)
    }

    /// Returns the value of a field, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.find(name).ok().and_then(|index| self.fields.get_mut(index)).map(|field| &mut field.1)
    }

    /// Returns true if there is a field of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// Returns the number of fields.
    pub const fn len(&self) -> usize {
        self.fields.len()
    }

    /// Returns true if there is no field.
    pub const fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Iterates over names and values, by ascending name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> + DoubleEndedIterator + Clone {
        self.fields.iter().map(|field| (field.0.as_str(), &field.1))
    }

    /// Iterates over the names, ascending.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> + DoubleEndedIterator + Clone {
        self.fields.iter().map(|field| field.0.as_str())
    }
}

impl IntoIterator for Document {
    type Item = (String, Value);
    type IntoIter = std::vec::IntoIter<(String, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.fields.into_iter()
    }
}

/// Of a name that occurs twice the later value stays.
impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Document {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut document = Self::new();
        document.extend(pairs);
        document
    }
}

impl<K: Into<String>, V: Into<Value>> Extend<(K, V)> for Document {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, pairs: I) {
        for (name, value) in pairs {
            self.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_sorted_and_unique() {
        let mut document = Document::new();
        for name in ["m", "a", "z", "b"] {
            assert_eq!(document.insert(name, 1), None);
        }
        assert_eq!(document.insert("m", 2), Some(Value::I64(1)));
        assert_eq!(document.keys().collect::<Vec<_>>(), ["a", "b", "m", "z"]);
        assert_eq!(document.get("m"), Some(&Value::I64(2)));
        assert_eq!(document.remove("a"), Some(Value::I64(1)));
        assert_eq!(document.get("a"), None);
        assert!(Document::from_pairs([("a", 1), ("a", 2)]).is_err());
        let later: Document = [("a", 1), ("a", 2)].into_iter().collect();
        assert_eq!(later.get("a"), Some(&Value::I64(2)));
    }
}
