//! From text to words, the way OpenVPN reads its configuration: comments, quotes, escapes, inline blocks. Knows no directive.
//! Pushed options are read by the same rules through [`split`].

use std::sync::Arc;

use super::problem::{At, Problem};
use super::secrets::SecretText;
use super::values::{Trouble, printable, quoted};

/// Longest line outside a block, in bytes.
pub const MAX_LINE: usize = 255;
/// Most words on a line, the directive's name included.
pub const MAX_WORDS: usize = 16;
/// Most lines with words in one file: what is longer is no profile.
const MAX_LINES: usize = 100_000;
/// Reading stops after this many problems: what has more is no profile.
pub(super) const MAX_PROBLEMS: usize = 200;

/// One directive as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where; of a block, its first line.
    pub at: At,
    /// The directive's name, without leading `--` and without the angle brackets of a block.
    pub name: String,
    /// Its arguments; empty for a block.
    pub args: Vec<String>,
    /// `<name>…</name>`: the text between, verbatim.
    pub block: Option<SecretText>,
}

/// Splits one line into words. At most [`MAX_LINE`] bytes and [`MAX_WORDS`] words.
///
/// White space separates; `#` and `;` start a comment where a word could start; a word that starts with `"` ends at the next `"`, one
/// that starts with `'` ends at the next `'`; elsewhere quotes are ordinary. Outside of single quotes a backslash takes the next
/// character literally, which must be a backslash, a double quote or white space.
pub fn split(line: &str) -> Result<Vec<String>, Trouble> {
    if line.len() > MAX_LINE {
        return Err(
            Trouble::new(format!("the line is longer than {MAX_LINE} bytes")).instead("use an inline block or a file")
        );
    }
    let mut words = Vec::new();
    let mut rest = line.chars().peekable();
    loop {
        skip_space(&mut rest);
        let word = match rest.peek() {
            None | Some('#' | ';') => return Ok(words),
            Some(quote @ ('"' | '\'')) => {
                let quote = *quote;
                rest.next();
                quoted_word(&mut rest, quote)?
            }
            Some(_) => bare_word(&mut rest)?,
        };
        if words.len() == MAX_WORDS {
            return Err(Trouble::new(format!("more than {MAX_WORDS} words on a line")));
        }
        words.push(word);
    }
}

/// Reads a whole text. What cannot be read is reported and left out; the rest is still read.
pub fn lex(text: &str, file: &Arc<str>, problems: &mut Vec<Problem>) -> Vec<Line> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    lex_from(text, &At { file: file.clone(), line: 1 }, problems)
}

/// Reads a text whose first line is `start`: the inside of a `<connection>` block.
pub fn lex_from(text: &str, start: &At, problems: &mut Vec<Problem>) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut reader = Reader { rest: text, at: start.clone() };
    while let Some((at, line)) = reader.next_line() {
        if lines.len() >= MAX_LINES || problems.len() >= MAX_PROBLEMS {
            problems.push(too_much(&at));
            break;
        }
        match reader.directive(&at, line) {
            Ok(Some(line)) => lines.push(line),
            Ok(None) => {}
            Err(trouble) => problems.push(Problem::error(&at, trouble)),
        }
    }
    lines
}

/// What is said instead of everything that is wrong from here on.
pub(super) fn too_much(at: &At) -> Problem {
    Problem::error(at, Trouble::new("too much to read on: this is not a profile"))
}

/// Walks through a text line by line.
struct Reader<'a> {
    rest: &'a str,
    at: At,
}

impl<'a> Reader<'a> {
    fn next_line(&mut self) -> Option<(At, &'a str)> {
        if self.rest.is_empty() {
            return None;
        }
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        let at = self.at.clone();
        self.rest = rest;
        self.at.line = self.at.line.saturating_add(1);
        Some((at, line))
    }

    fn directive(&mut self, at: &At, line: &str) -> Result<Option<Line>, Trouble> {
        let mut words = split(line)?.into_iter();
        let Some(first) = words.next() else {
            return Ok(None);
        };
        let args: Vec<String> = words.collect();
        let first = first.strip_prefix("--").filter(|rest| !rest.is_empty()).unwrap_or(&first);
        let inside = first.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
        let (name, block) = match inside {
            Some(name) if args.is_empty() => (name, Some(self.block(name)?)),
            _ => (first, None),
        };
        Ok(Some(Line { at: at.clone(), name: name.to_owned(), args, block }))
    }

    /// Everything up to a line that starts with the end tag.
    fn block(&mut self, name: &str) -> Result<SecretText, Trouble> {
        if let Some(opened) = name.strip_prefix('/') {
            return Err(Trouble::new(format!("</{}> closes a block that was not opened", printable(opened))));
        }
        let (text, end) = (self.rest, format!("</{name}>"));
        let mut length = 0_usize;
        let before = Reader { rest: self.rest, at: self.at.clone() };
        while let Some((_, line)) = self.next_line() {
            if line.trim_start().starts_with(&end) {
                return Ok(SecretText::from(text.get(..length).unwrap_or(text)));
            }
            length = text.len() - self.rest.len();
        }
        // Without its end the block would swallow the file: read on after the tag, so that the other problems are found too.
        *self = before;
        self.skip_to_directives();
        let name = printable(name);
        Err(Trouble::new(format!("<{name}> has no end")).instead(format!("write a line </{name}> after it")))
    }

    /// Leaves out PEM and the like after a block that has no end: up to the next opening tag.
    fn skip_to_directives(&mut self) {
        let mut here = Reader { rest: self.rest, at: self.at.clone() };
        while let Some((_, line)) = self.next_line() {
            if line.trim().starts_with('<') && !line.trim().starts_with("</") {
                *self = here;
                return;
            }
            here = Reader { rest: self.rest, at: self.at.clone() };
        }
    }
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn quoted_word(rest: &mut Chars<'_>, quote: char) -> Result<String, Trouble> {
    let mut word = String::new();
    while let Some(c) = rest.next() {
        match c {
            c if c == quote => return Ok(word),
            '\\' if quote == '"' => word.push(escaped(rest)?),
            c => word.push(c),
        }
    }
    Err(Trouble::new(format!("a {quote} has no partner on its line")))
}

fn bare_word(rest: &mut Chars<'_>) -> Result<String, Trouble> {
    let mut word = String::new();
    while let Some(c) = rest.next_if(|c| !is_space(*c)) {
        match c {
            '\0' => return Err(Trouble::new("a NUL character")),
            '\\' => word.push(escaped(rest)?),
            c => word.push(c),
        }
    }
    Ok(word)
}

fn escaped(rest: &mut Chars<'_>) -> Result<char, Trouble> {
    match rest.next() {
        Some(c) if c == '\\' || c == '"' || is_space(c) => Ok(c),
        Some(c) => Err(Trouble::new(format!("a backslash before {}", quoted(&c.to_string())))
            .instead("write two backslashes, or single quotes")),
        None => {
            Err(Trouble::new("a backslash at the end of a line").instead("write two backslashes, or single quotes"))
        }
    }
}

/// White space between words. A backslash before white space is white space here, and one before a comment does not keep it from
/// being one.
fn skip_space(rest: &mut Chars<'_>) {
    loop {
        let mut ahead = rest.clone();
        match (ahead.next(), ahead.next()) {
            (Some(c), _) if is_space(c) => rest.next(),
            (Some('\\'), Some(c)) if is_space(c) || c == '#' || c == ';' => rest.next(),
            _ => return,
        };
    }
}

/// isspace(3) in the C locale.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_split_as_openvpn_splits_them() {
        let table: [(&str, &[&str]); 25] = [
            ("", &[]),
            ("   \t \r", &[]),
            ("# comment", &[]),
            ("  ; comment", &[]),
            ("remote a 1194", &["remote", "a", "1194"]),
            ("remote\ta\t1194\r", &["remote", "a", "1194"]),
            ("verb 3 # loud", &["verb", "3"]),
            ("verb 3 ;loud", &["verb", "3"]),
            ("verb 3#loud", &["verb", "3#loud"]),
            ("setenv UV_X a;b", &["setenv", "UV_X", "a;b"]),
            (r#"x "a b" c"#, &["x", "a b", "c"]),
            (r#"x "a # b""#, &["x", "a # b"]),
            (r#"x 'a "b" \ c'"#, &["x", r#"a "b" \ c"#]),
            (r#"x """#, &["x", ""]),
            (r#"x a"b c"#, &["x", "a\"b", "c"]),
            (r"x it's", &["x", "it's"]),
            (r#"x "a\"b""#, &["x", "a\"b"]),
            (r"x a\ b", &["x", "a b"]),
            (r"x \ a", &["x", "a"]),
            (r"x \# a", &["x"]),
            (r"x \; a", &["x"]),
            (r"x c:\\dir\\f", &["x", r"c:\dir\f"]),
            (r#"x "a"b"#, &["x", "a", "b"]),
            (r#"x \"a"#, &["x", "\"a"]),
            ("x ümläut", &["x", "ümläut"]),
        ];
        for (line, words) in table {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn bad_quotes_and_escapes_are_errors() {
        for line in [r#"x "a"#, "x 'a", r"x c:\dir", r"x \'a", "x a\\", r#"x "a\n""#, "x a\0b"] {
            assert!(split(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_limits_are_those_of_openvpn() {
        assert!(split(&"a".repeat(MAX_LINE)).is_ok());
        assert!(split(&"a".repeat(MAX_LINE + 1)).is_err());
        assert_eq!(split(&"a ".repeat(MAX_WORDS)).unwrap().len(), MAX_WORDS);
        assert!(split(&"a ".repeat(MAX_WORDS + 1)).is_err());
    }

    fn read(text: &str) -> (Vec<Line>, Vec<String>) {
        let mut problems = Vec::new();
        let lines = lex(text, &"f".into(), &mut problems);
        (lines, problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn a_byte_order_mark_dashes_and_carriage_returns_are_no_part_of_a_name() {
        let (lines, problems) = read("\u{feff}--client\r\n--dev tun\r\n--\r\n");
        let names: Vec<_> = lines.iter().map(|line| (line.at.line, line.name.as_str())).collect();
        assert_eq!(names, [(1, "client"), (2, "dev"), (3, "--")]);
        assert!(problems.is_empty());
    }

    #[test]
    fn a_block_is_verbatim_up_to_its_end_tag() {
        let (lines, problems) = read("verb 3\n<ca>\r\n# not a comment\r\n  \"x\n<b>\n  </ca> rest\nverb 4\n");
        assert!(problems.is_empty());
        assert_eq!(lines[1].name, "ca");
        assert_eq!(lines[1].at.line, 2);
        assert_eq!(lines[1].block.as_ref().unwrap().expose(), "# not a comment\r\n  \"x\n<b>\n");
        assert_eq!((lines[2].name.as_str(), lines[2].at.line), ("verb", 7));
        let (lines, _) = read("<ca>\n</ca>");
        assert_eq!(lines[0].block.as_ref().unwrap().expose(), "");
    }

    #[test]
    fn a_tag_that_cannot_be_printed_is_not_printed() {
        for text in ["<c\u{1b}[31ma>\n", "</\u{7}>\n"] {
            let (_, problems) = read(text);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(!problems[0].contains(char::is_control), "{problems:?}");
        }
    }

    #[test]
    fn what_only_looks_like_a_block_is_a_directive() {
        let (lines, _) = read("<ca> x\n");
        assert_eq!(lines[0].name, "<ca>");
        assert!(lines[0].block.is_none());
    }

    #[test]
    fn a_block_without_an_end_does_not_hide_what_follows() {
        let (lines, problems) = read("<ca>\nPEM\n<key>\nPEM\n</key>\nverb 3\n");
        assert_eq!(problems, ["f:1: error: <ca> has no end: write a line </ca> after it"]);
        assert_eq!(lines.iter().map(|line| line.name.as_str()).collect::<Vec<_>>(), ["key", "verb"]);
        let (_, problems) = read("verb 3\n</ca>\nverb 4\n");
        assert_eq!(problems, ["f:2: error: </ca> closes a block that was not opened"]);
    }

    #[test]
    fn every_bad_line_is_reported_and_the_good_ones_remain() {
        let (lines, problems) = read("a \"\nb\nc \\x\nd\n");
        assert_eq!(problems.len(), 2);
        assert!(problems[0].starts_with("f:1: error") && problems[1].starts_with("f:3: error"));
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn a_file_that_is_no_profile_is_not_read_to_its_end() {
        let (lines, problems) = read(&"<ca>\n".repeat(10_000));
        assert_eq!((lines.len(), problems.len()), (0, MAX_PROBLEMS + 1));
        let (lines, problems) = read(&"verb 3\n".repeat(MAX_LINES + 5));
        assert_eq!((lines.len(), problems.len()), (MAX_LINES, 1));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_lexer_panic(text in "(?s).{0,400}") {
            read(&text);
        }

        #[test]
        fn no_profile_like_text_makes_the_lexer_panic(text in "([a-c<>/\"'\\\\ \n\r#;-]|<ca>\n|</ca>\n){0,80}") {
            let (lines, problems) = read(&text);
            prop_assert!(lines.len() + problems.len() <= text.split('\n').count());
        }

        #[test]
        fn a_quoted_word_comes_back_as_it_was(word in "[ -~]{0,100}") {
            let line = format!("x \"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""));
            prop_assume!(line.len() <= MAX_LINE);
            prop_assert_eq!(split(&line).unwrap(), vec!["x".to_owned(), word]);
        }
    }
}
