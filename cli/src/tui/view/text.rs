//! Words and numbers that fit.

use chadthrottle_core::Limits;

use crate::units;

/// "9.98 Mbit/s"; nothing moves: "·".
pub(super) fn rate(bytes_per_second: u64) -> String {
    if bytes_per_second == 0 { "·".to_owned() } else { units::rate(bytes_per_second) }
}

/// "62.3 MB"
pub(super) fn bytes(count: u64) -> String {
    if count == 0 { "·".to_owned() } else { units::bytes(count) }
}

/// "↓10 Mbit/s ↑1 Mbit/s"
pub(super) fn limits(limits: &Limits) -> String {
    let mut words = Vec::new();
    words.extend(limits.download.map(|limit| format!("↓{}", limit.rate)));
    words.extend(limits.upload.map(|limit| format!("↑{}", limit.rate)));
    words.join(" ")
}

/// At most so many columns, with an ellipsis when something is left out.
pub(super) fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        kept.push('…');
    }
    kept
}

/// Lines of at most so many columns, broken between words where that is possible.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word = word.to_owned();
        loop {
            let last = lines.last_mut().expect("there is always one");
            let used = last.chars().count();
            let space = usize::from(used > 0);
            if used + space + word.chars().count() <= width {
                if space > 0 {
                    last.push(' ');
                }
                last.push_str(&word);
                break;
            }
            if used > 0 {
                lines.push(String::new());
                continue;
            }
            let rest: String = word.chars().skip(width).collect();
            last.extend(word.chars().take(width));
            word = rest;
            lines.push(String::new());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits() {
        assert_eq!(fit("abcdef", 6), "abcdef");
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(fit("abcdef", 0), "");
    }

    #[test]
    fn wraps() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrap("", 3), [""]);
    }
}
