//! A list that allocates only when it grows past a few items, and a search for repeats.

/// A list of small things; the first `N` lie on the stack.
pub(crate) struct Small<T, const N: usize> {
    inline: [T; N],
    len: usize,
    spill: Vec<T>,
}

impl<T: Copy + Default, const N: usize> Default for Small<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy + Default, const N: usize> Small<T, N> {
    pub(crate) fn new() -> Self {
        Self { inline: [T::default(); N], len: 0, spill: Vec::new() }
    }

    pub(crate) fn push(&mut self, item: T) {
        match self.inline.get_mut(self.len) {
            Some(slot) => *slot = item,
            None => {
                if self.spill.is_empty() {
                    self.spill.extend_from_slice(&self.inline);
                }
                self.spill.push(item);
            }
        }
        self.len += 1;
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        if self.len <= N { self.inline.get(..self.len).unwrap_or_default() } else { &self.spill }
    }
}

/// Returns the place of an item that occurs earlier, if any.
pub(crate) fn first_repeat<T: Ord>(items: &[T]) -> Option<usize> {
    // A few comparisons beat an allocation.
    if items.len() <= 8 {
        return (1..items.len()).find(|&i| items[..i].contains(&items[i]));
    }
    let mut places: Vec<u32> = (0..items.len() as u32).collect();
    // By item, then by place: a repeat comes right after its equal.
    places.sort_unstable_by_key(|&place| (&items[place as usize], place));
    let repeats = places.windows(2).filter(|pair| items[pair[0] as usize] == items[pair[1] as usize]);
    repeats.map(|pair| pair[1] as usize).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spills_and_keeps_order() {
        let mut list = Small::<u32, 4>::new();
        for n in 0..10 {
            assert_eq!(list.as_slice(), (0..n).collect::<Vec<_>>());
            list.push(n);
        }
    }

    #[test]
    fn repeats_are_found_in_short_and_long_lists() {
        for len in [0u32, 1, 2, 8, 9, 50] {
            let mut items: Vec<u32> = (0..len).rev().collect();
            assert_eq!(first_repeat(&items), None);
            if len > 0 {
                items.extend([items[0], items[0]]);
                assert_eq!(first_repeat(&items), Some(len as usize));
            }
        }
    }
}
