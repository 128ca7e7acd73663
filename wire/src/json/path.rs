//! Where in a value something went wrong, written like `$.items[3].name`.
//!
//! A path is built from the inside out while an error travels up, so that the way without errors pays nothing for
//! it. The text starts empty; each container puts its own step in front, and [`finish`] adds the `$`.

use super::write::write_text;

/// Puts the step through the map entry `key` in front of `path`.
pub(crate) fn prepend_key(path: &mut String, key: &str) {
    let plain = !key.is_empty()
        && !key.as_bytes()[0].is_ascii_digit()
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let mut longer = String::with_capacity(key.len() + path.len() + 4);
    if plain {
        longer.push('.');
        longer.push_str(key);
    } else {
        let mut quoted = Vec::with_capacity(key.len() + 2);
        write_text(key, &mut quoted);
        longer.push('[');
        longer.push_str(&String::from_utf8_lossy(&quoted));
        longer.push(']');
    }
    longer.push_str(path);
    *path = longer;
}

/// Puts the step through the array item `index` in front of `path`.
pub(crate) fn prepend_index(path: &mut String, index: u64) {
    path.insert_str(0, &format!("[{index}]"));
}

/// Puts the root in front: the path is whole.
pub(crate) fn finish(path: &mut String) {
    path.insert(0, '$');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_read_from_the_root() {
        let mut path = String::new();
        prepend_key(&mut path, "name");
        prepend_index(&mut path, 3);
        prepend_key(&mut path, "odd \"key\"");
        prepend_key(&mut path, "");
        prepend_key(&mut path, "2nd");
        finish(&mut path);
        assert_eq!(path, r#"$["2nd"][""]["odd \"key\""][3].name"#);
    }
}
