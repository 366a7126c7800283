//! The list that `gateway up` prints: what is set up, what is new, what needs attention. Coloured on a terminal unless
//! NO_COLOR is set; plain words elsewhere.

use std::io::IsTerminal;

use time::OffsetDateTime;

use crate::observe::log::{Format, colour_allowed};

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// How it stands.
    pub mark: Mark,
    /// What, in a few words.
    pub what: String,
    /// How, where or until when.
    pub detail: String,
}

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It was made or changed just now.
    New,
    /// It was there and stays.
    Kept,
    /// It will be done by whoever serves.
    Later,
    /// It needs the user.
    Attention,
}

impl Mark {
    fn word(self) -> &'static str {
        match self {
            Mark::New => "new ",
            Mark::Kept => "ok  ",
            Mark::Later => "then",
            Mark::Attention => "look",
        }
    }
}

/// The list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checklist {
    items: Vec<Item>,
}

impl Checklist {
    /// Adds a line.
    pub fn add(&mut self, mark: Mark, what: &str, detail: impl Into<String>) {
        self.items.push(Item { mark, what: what.to_owned(), detail: detail.into() });
    }

    /// Its lines.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The text, with or without colours.
    pub fn text(&self, colours: bool) -> String {
        let width = self.items.iter().map(|item| item.what.chars().count()).max().unwrap_or(0);
        let line = |item: &Item| {
            let word = item.mark.word();
            let colour = match item.mark {
                Mark::New | Mark::Kept => "\x1b[32m",
                Mark::Later => "\x1b[36m",
                Mark::Attention => "\x1b[1;33m",
            };
            let pad = " ".repeat(width.saturating_sub(item.what.chars().count()));
            match colours {
                true => format!("{colour}{word}\x1b[0m  {}{pad}  {}\n", item.what, item.detail),
                false => format!("{word}  {}{pad}  {}\n", item.what, item.detail),
            }
        };
        self.items.iter().map(line).collect()
    }

    /// The same as JSON, an object each: `mark` is `new`, `ok`, `then` or `look`, as in the text.
    pub fn json_lines(&self) -> String {
        let line = |item: &Item| {
            let mark = item.mark.word().trim_end();
            format!("{}\n", serde_json::json!({ "mark": mark, "what": item.what, "detail": item.detail }))
        };
        self.items.iter().map(line).collect()
    }

    /// Prints it on standard output, in the format of the log. One that is closed ends nothing.
    pub fn print(&self, format: Format) {
        match format {
            Format::Text => crate::out!("{}", self.text(colour_allowed(std::io::stdout().is_terminal()))),
            Format::Json => crate::out!("{}", self.json_lines()),
        }
    }
}

/// A date (UTC) as `2026-11-22`, from seconds since 1970.
pub fn date(seconds: u64) -> String {
    let moment = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    moment.map_or_else(|| "unknown".to_owned(), |moment| moment.date().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::NOW;

    #[test]
    fn a_list_is_plain_where_colours_mean_nothing() {
        let mut list = Checklist::default();
        list.add(Mark::New, "authority", "until 2046");
        list.add(Mark::Attention, "port", "taken");
        assert_eq!(list.text(false), "new   authority  until 2046\nlook  port       taken\n");
        assert!(list.text(true).contains("\x1b[32mnew \x1b[0m"));
        assert!(!list.text(false).contains('\x1b'));
        let json = list.json_lines();
        let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let new = serde_json::json!({ "mark": "new", "what": "authority", "detail": "until 2046" });
        assert_eq!((lines.len(), &lines[0]), (2, &new));
    }

    #[test]
    fn dates_are_days() {
        assert_eq!(date(NOW), "2026-11-22");
        assert_eq!(date(u64::MAX), "unknown");
    }
}
