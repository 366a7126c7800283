//! How figures and foreign text are written: prefixes, lengths, escaping. What comes from the machine (names, versions,
//! the command line) passes through here before it reaches a terminal, a plot, a table or the page.

/// Text that may be shown: what moves a cursor, turns the writing direction or may not stand in XML becomes U+FFFD.
pub(crate) fn clean(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
            || matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    text.chars().map(|c| if hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// [`clean`], and nothing that HTML reads as markup, in text or in an attribute in double quotes.
pub(crate) fn html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in clean(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// [`clean`], cut to `most` characters with an ellipsis.
pub(crate) fn short(text: &str, most: usize) -> String {
    let text = clean(text);
    if text.chars().count() <= most {
        return text;
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// A command as a shell would read it back.
pub(crate) fn command(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    let quoted = |word: &String| match word.chars().all(plain) && !word.is_empty() {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Divisor and prefix that bring `most` to 1…999; without one below 1,000.
pub(crate) fn prefix(most: f64) -> (f64, &'static str) {
    match most {
        most if most >= 1e12 => (1e12, "T"),
        most if most >= 1e9 => (1e9, "G"),
        most if most >= 1e6 => (1e6, "M"),
        most if most >= 1e3 => (1e3, "k"),
        _ => (1.0, ""),
    }
}

/// Three significant digits, never more than nine characters; `–` for what is no number.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "–".to_owned(),
        0.0 => "0".to_owned(),
        size if !(0.001..999_999.5).contains(&size) => format!("{value:.2e}"),
        size if size < 0.1 => format!("{value:.4}"),
        size if size < 9.995 => format!("{value:.2}"),
        size if size < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// [`number`] with a prefix: `12.3 G`.
pub(crate) fn scaled(value: f64) -> String {
    let (divisor, prefix) = prefix(value.abs());
    match prefix {
        "" => number(value),
        prefix => format!("{} {prefix}", number(value / divisor)),
    }
}

/// A share as per cent.
pub(crate) fn percent(share: f64) -> String {
    match share.is_finite() {
        true => format!("{} %", number(share * 100.0)),
        false => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_control_characters_do_not_survive() {
        let table = [
            ("plain µ", "plain µ"),
            ("<script>alert('x')</script>", "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"),
            ("a&b\"c", "a&amp;b&quot;c"),
            ("\u{1b}[2J", "\u{fffd}[2J"),
            ("a\0b\nc", "a\u{fffd}b\u{fffd}c"),
            ("\u{202e}gpj.exe", "\u{fffd}gpj.exe"),
            ("\u{ffff}", "\u{fffd}"),
        ];
        for (text, expected) in table {
            assert_eq!(html(text), expected);
        }
    }

    #[test]
    fn long_names_are_cut_by_characters_and_fitting_ones_are_not() {
        assert_eq!(short("abcde", 5), "abcde");
        assert_eq!(short("abcdef", 5), "abcd…");
        assert_eq!(short("äöüäöü", 5), "äöüä…");
        assert_eq!(short("", 5), "");
    }

    #[test]
    fn a_command_can_be_pasted_back() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(command(&words(&["minivpn", "bench", "--out=a/b"])), "minivpn bench --out=a/b");
        assert_eq!(command(&words(&["a b", "", "it's", "$(reboot)"])), r"'a b' '' 'it'\''s' '$(reboot)'");
        assert_eq!(command(&[]), "");
    }

    #[test]
    fn figures_have_three_digits_and_a_bounded_length() {
        let table = [
            (0.0, "0"),
            (0.0123, "0.0123"),
            (1.234, "1.23"),
            (9.996, "10.0"),
            (12.34, "12.3"),
            (99.96, "100"),
            (1234.5, "1234"),
            (999_999.9, "1.00e6"),
            (f64::MAX, "1.80e308"),
            (0.0000001, "1.00e-7"),
            (f64::NAN, "–"),
            (f64::INFINITY, "–"),
            (-12.34, "-12.3"),
        ];
        for (value, expected) in table {
            assert_eq!(number(value), expected, "{value}");
            assert!(number(value).chars().count() <= 9);
        }
        assert_eq!(scaled(12.34e9), "12.3 G");
        assert_eq!(scaled(999.0), "999");
        assert_eq!(scaled(1000.0), "1.00 k");
        assert_eq!(scaled(f64::NAN), "–");
        assert_eq!(percent(0.0123), "1.23 %");
        assert_eq!(percent(f64::NAN), "–");
    }
}
