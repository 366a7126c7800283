//! What was written: the lines of a profile with their places, included files spliced in, `<connection>` blocks opened, each line
//! checked against the table of directives for its form. No value is understood here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::directives::{self, Disposition, Row, Side};
use super::files::Files;
use super::lexer::{self, Line};
use super::looks;
use super::problem::{At, Problem};
use super::values::{Trouble, quoted};
use crate::exit::permitted;

/// How deep `config` may include.
const MAX_DEPTH: usize = 10;
/// How many files a profile may include in all: what includes itself twice must end before the machine does.
const MAX_INCLUDED: usize = 64;

/// A profile as it was written: lines of known directives, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// What stands there, in order.
    pub entries: Vec<Entry>,
    /// The `cd` directives one after the other; relative file names start here. Empty: the current directory.
    pub directory: PathBuf,
}

/// One directive, or one `<connection>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directive outside of connections.
    Directive(Directive),
    /// `<connection>`: its place and its lines.
    Connection(At, Vec<Directive>),
}

/// A line whose directive is known, stands where it may and has as many arguments as it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// Its row in the table.
    pub row: &'static Row,
    /// The line.
    pub line: Line,
    /// `setenv opt …`: what is wrong with it is a warning.
    pub optional: bool,
}

impl Directive {
    /// What is wrong with this directive, as severe as the author wants it.
    pub fn problem(&self, trouble: Trouble) -> Problem {
        graded(self.optional, &self.line.at, named(self.row.name, trouble))
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Row {}

/// Reads a profile and everything it includes. Relative names of included files start where `cd` went so far, as OpenVPN does it:
/// from the current directory, not from the profile's.
pub fn read(path: &Path, side: Side, files: &dyn Files, problems: &mut Vec<Problem>) -> Written {
    let read = lines(path, side, files, problems);
    check(read, side, problems)
}

/// The lines of a file and of everything it includes, not yet looked at.
pub(super) struct Lines {
    lines: Vec<Line>,
    directory: PathBuf,
}

impl Lines {
    /// Whose file it is, by what stands in it.
    pub(super) fn side(&self) -> Side {
        let has = |names: &[&str]| self.lines.iter().any(|line| names.contains(&line.name.as_str()));
        let mode = |line: &Line| line.name == "mode" && line.args.first().is_some_and(|mode| mode == "server");
        let server = has(&["server", "server-ipv6", "server-bridge", "tls-server"]) || self.lines.iter().any(mode);
        if server && !has(&["client", "tls-client", "pull"]) { Side::Server } else { Side::Client }
    }
}

/// [`read`], without looking at the lines.
pub(super) fn lines(path: &Path, side: Side, files: &dyn Files, problems: &mut Vec<Problem>) -> Lines {
    // The file of one client does not move the others.
    let moves = side != Side::OneClient;
    let mut reader = Reader { files, problems, side, included: 0, directory: PathBuf::new(), moves };
    let lines = match reader.lines(path, 0) {
        Ok(lines) => lines,
        Err(trouble) => {
            reader.problems.push(Problem::error(&whole(path), trouble));
            Vec::new()
        }
    };
    let directory = reader.directory;
    Lines { lines, directory }
}

/// Checks the form of every line.
pub(super) fn check(read: Lines, side: Side, problems: &mut Vec<Problem>) -> Written {
    let Lines { lines, directory } = read;
    let known = Known::of(&lines, side);
    let mut entries = Vec::new();
    for line in lines {
        known.entry(line, &mut entries, problems);
    }
    Written { entries, directory }
}

/// The whole of a file, as a place.
pub fn whole(path: &Path) -> At {
    At { file: path.display().to_string().into(), line: 0 }
}

struct Reader<'a> {
    files: &'a dyn Files,
    problems: &'a mut Vec<Problem>,
    /// What is wanted.
    side: Side,
    included: usize,
    directory: PathBuf,
    /// Whether `cd` means something.
    moves: bool,
}

impl Reader<'_> {
    fn lines(&mut self, path: &Path, depth: usize) -> Result<Vec<Line>, Trouble> {
        let bytes = self.files.read(path).map_err(|error| self.unreadable(&error))?;
        if let Some(like) = looks::like(&bytes) {
            return Err(self.another(like));
        }
        let at = whole(path);
        let text = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
        if text.len() != bytes.len() {
            let trouble = Trouble::new("it is not UTF-8: what is not was replaced").instead("save it as UTF-8");
            self.problems.push(Problem::warning(&at, trouble));
        }
        let lines = lexer::lex(&text, &at.file, self.problems);
        let mut all = Vec::with_capacity(lines.len());
        for line in lines {
            match (line.name.as_str(), line.args.as_slice()) {
                ("config", [file]) => all.append(&mut self.include(&line.at, file, depth)),
                ("cd", [directory]) if self.moves => self.directory.push(directory),
                _ => all.push(line),
            }
        }
        Ok(all)
    }

    fn unreadable(&self, error: &io::Error) -> Trouble {
        match error.kind() {
            io::ErrorKind::IsADirectory => self.another("a directory"),
            _ => {
                let own = if permitted(error).is_empty() {
                    ""
                } else {
                    ", or as a user of your own with a copy of the file that is yours"
                };
                Trouble::new(format!("cannot read it: {error}{}{own}", permitted(error)))
            }
        }
    }

    /// It is a file of another kind.
    fn another(&self, like: &str) -> Trouble {
        let (wanted, which) = match self.side {
            Side::Client => ("a client's profile", "the file that says `client` and `remote`, often NAME.ovpn"),
            Side::Server => {
                ("a server's configuration", "the file that says `server` or `mode server`, often server.conf")
            }
            Side::OneClient => ("what is for one client of a server", "a file with directives like `ifconfig-push`"),
        };
        Trouble::new(format!("this is {like}, and not {wanted}")).instead(format!("name {which}"))
    }

    fn include(&mut self, at: &At, file: &str, depth: usize) -> Vec<Line> {
        self.included = self.included.saturating_add(1);
        let path = self.directory.join(file);
        let lines = if depth + 1 >= MAX_DEPTH || self.included > MAX_INCLUDED {
            Err(Trouble::new(format!("includes more than {MAX_DEPTH} deep, or more than {MAX_INCLUDED} files")))
        } else {
            self.lines(&path, depth + 1).map_err(|trouble| Trouble::new(format!("{}: {}", quoted(file), trouble.what)))
        };
        lines.unwrap_or_else(|trouble| {
            self.problems.push(Problem::error(at, named("config", trouble)));
            Vec::new()
        })
    }
}

/// Whose file it is, and which unknown names it wants forgiven.
struct Known {
    side: Side,
    forgiven: Vec<Arc<str>>,
    forward_compatible: bool,
}

impl Known {
    fn of(lines: &[Line], side: Side) -> Self {
        let of = |wanted: &'static str| lines.iter().filter(move |line| line.name == wanted);
        let forgiven =
            of("ignore-unknown-option").flat_map(|line| &line.args).map(|name| Arc::from(name.as_str())).collect();
        let compatible =
            |line: &Line| matches!(line.args.as_slice(), [name, value] if name == "FORWARD_COMPATIBLE" && value == "1");
        Known { side, forgiven, forward_compatible: of("setenv").any(compatible) }
    }

    fn entry(&self, line: Line, entries: &mut Vec<Entry>, problems: &mut Vec<Problem>) {
        if line.name != "connection" || line.block.is_none() || self.side != Side::Client {
            entries.extend(self.directive(line, false, problems).map(Entry::Directive));
            return;
        }
        let inside = At { file: line.at.file.clone(), line: line.at.line.saturating_add(1) };
        let text = line.block.unwrap_or_default();
        let lines = lexer::lex_from(text.expose(), &inside, problems);
        let directives = lines.into_iter().filter_map(|line| self.directive(line, true, problems)).collect();
        entries.push(Entry::Connection(line.at, directives));
    }

    /// The directive of a line, if it is one; else what is wrong with it is in `problems`.
    fn directive(&self, mut line: Line, connection: bool, problems: &mut Vec<Problem>) -> Option<Directive> {
        let optional = take_optional(&mut line);
        let Some(row) = directives::find(&line.name) else {
            report(problems, &line.at, || self.unknown(&line, optional));
            return None;
        };
        match form(row, self.side, &line, connection) {
            Ok(()) => Some(Directive { row, line, optional }),
            Err(trouble) => {
                report(problems, &line.at, || Some(graded(optional, &line.at, trouble)));
                None
            }
        }
    }

    fn unknown(&self, line: &Line, optional: bool) -> Option<Problem> {
        if self.forgiven.iter().any(|name| **name == *line.name) || optional {
            return None;
        }
        let mut trouble = Trouble::new(format!("unknown directive {}", quoted(&line.name)));
        trouble.instead = directives::nearest(&line.name).map(|name| format!("did you mean \"{name}\"?"));
        Some(graded(self.forward_compatible, &line.at, trouble))
    }
}

/// Adds a problem, unless so much is wrong already that the file is no profile: then that is the last word, and an error, because
/// what is left out may be one.
fn report(problems: &mut Vec<Problem>, at: &At, problem: impl FnOnce() -> Option<Problem>) {
    if problems.len() < lexer::MAX_PROBLEMS {
        problems.extend(problem());
    } else if !problems.last().is_some_and(Problem::is_error) {
        problems.push(lexer::too_much(at));
    }
}

/// `setenv opt NAME args` is `NAME args` of which errors are forgiven.
fn take_optional(line: &mut Line) -> bool {
    let optional = line.name == "setenv" && line.args.len() > 1 && line.args.first().is_some_and(|word| word == "opt");
    if optional {
        line.name = line.args.drain(..2).nth(1).unwrap_or_default();
    }
    optional
}

fn graded(optional: bool, at: &At, trouble: Trouble) -> Problem {
    if optional { Problem::warning(at, trouble) } else { Problem::error(at, trouble) }
}

/// Puts the directive's name before a sentence.
fn named(name: &str, trouble: Trouble) -> Trouble {
    Trouble { what: format!("{name}: {}", trouble.what), ..trouble }
}

/// Whether the line has the form that its row allows.
fn form(row: &Row, side: Side, line: &Line, connection: bool) -> Result<(), Trouble> {
    let name = row.name;
    // What will be refused anyway should be refused for its real reason.
    if matches!(row.on(side), Disposition::Refused(..)) {
        return Ok(());
    }
    if connection && !row.places.connection() {
        return Err(Trouble::new(format!("{name} does not belong in <connection>")).instead("write it outside"));
    }
    if line.block.is_some() {
        let wrong = || Trouble::new(format!("{name} is not an inline block")).instead(usage(row));
        return if row.places.block() { Ok(()) } else { Err(wrong()) };
    }
    if name == "connection" {
        return Err(Trouble::new("connection is a block").instead("write <connection>, its lines, and </connection>"));
    }
    let (min, max) = (usize::from(row.args.0), usize::from(row.args.1));
    if (min..=max).contains(&line.args.len()) {
        return Ok(());
    }
    let wanted = match (min, max) {
        (0, 0) => "no arguments".to_owned(),
        (1, 1) => "1 argument".to_owned(),
        _ if min == max => format!("{min} arguments"),
        _ => format!("{min} to {max} arguments"),
    };
    Err(Trouble::new(format!("{name} takes {wanted}, and this line has {}", line.args.len())).instead(usage(row)))
}

fn usage(row: &Row) -> String {
    let sample = row.samples.first().copied().unwrap_or(row.name);
    format!("write it like `{}`", sample.lines().next().unwrap_or(sample))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io;

    fn read_files(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>, PathBuf) {
        let files: BTreeMap<PathBuf, String> =
            files.iter().map(|(name, text)| (name.into(), (*text).to_owned())).collect();
        let open =
            |path: &Path| files.get(path).map(|text| text.clone().into_bytes()).ok_or(io::ErrorKind::NotFound.into());
        let mut problems = Vec::new();
        let written = read(Path::new("p"), Side::Client, &open, &mut problems);
        let names = written.entries.iter().map(|entry| match entry {
            Entry::Directive(directive) => format!("{}:{}", directive.line.at, directive.row.name),
            Entry::Connection(at, inside) => format!("{at}:connection of {}", inside.len()),
        });
        (names.collect(), problems.iter().map(Problem::to_string).collect(), written.directory)
    }

    #[test]
    fn included_files_stand_where_they_are_included_and_keep_their_places() {
        let (names, problems, _) = read_files(&[("p", "client\nconfig q\nverb 3\n"), ("q", "\nnobind\n")]);
        assert_eq!(names, ["p:1:client", "q:2:nobind", "p:3:verb"]);
        assert!(problems.is_empty());
    }

    #[test]
    fn includes_start_where_cd_went() {
        let (names, problems, directory) = read_files(&[("p", "cd a\nconfig q\ncd b\n"), ("a/q", "nobind\n")]);
        assert_eq!(names, ["a/q:1:nobind"]);
        assert!(problems.is_empty());
        assert_eq!(directory, Path::new("a/b"));
    }

    #[test]
    fn a_file_that_includes_itself_ends() {
        let (_, problems, _) = read_files(&[("p", "config p\nconfig p\nconfig p\n")]);
        assert!(problems.len() < 3 * MAX_INCLUDED);
        assert!(problems[0].contains("deep"), "{}", problems[0]);
        let (_, problems, _) = read_files(&[("p", "config q\n")]);
        assert_eq!(problems, ["p:1: error: config: \"q\": cannot read it: entity not found"]);
        let (_, problems, _) = read_files(&[]);
        assert_eq!(problems, ["p: error: cannot read it: entity not found"]);
    }

    #[test]
    fn what_is_no_profile_has_a_bounded_number_of_problems_and_the_last_is_an_error() {
        let bound = lexer::MAX_PROBLEMS;
        let inside = format!("<connection>\n{}</connection>\n", "nonsense\n".repeat(bound));
        for text in ["nonsense\n".repeat(bound), "remote\n".repeat(bound), inside] {
            let (_, problems, _) = read_files(&[("p", &text)]);
            assert_eq!(problems.len(), bound);
            let (_, problems, _) = read_files(&[("p", &text.repeat(2))]);
            // The lexer has a last word of its own, once a block.
            assert!((bound..=bound + 1).contains(&problems.len()), "{}", problems.len());
        }
        // Warnings do not hide an error behind them.
        let forgiving = format!("setenv FORWARD_COMPATIBLE 1\n{}", "nonsense\n".repeat(bound));
        let (_, problems, _) = read_files(&[("p", &forgiving)]);
        assert!(problems.len() == bound && !problems.iter().any(|problem| problem.contains("error")));
        let (_, problems, _) = read_files(&[("p", &format!("{forgiving}remote\nremote\n"))]);
        assert_eq!(problems.len(), bound + 1);
        assert!(problems[bound].contains("error: too much to read on"), "{}", problems[bound]);
    }

    #[test]
    fn a_connection_is_opened_and_its_lines_keep_their_places() {
        let (names, problems, _) = read_files(&[(
            "p",
            "client\n<connection>\nremote a\n<tls-crypt>\nx\n</tls-crypt>\nverb 3\nremot b\n</connection>\n",
        )]);
        assert_eq!(names, ["p:1:client", "p:2:connection of 2"]);
        assert_eq!(problems[0], "p:7: error: verb does not belong in <connection>: write it outside");
        assert_eq!(problems[1], "p:8: error: unknown directive \"remot\": did you mean \"remote\"?");
    }

    #[test]
    fn unknown_names_are_errors_unless_forgiven() {
        let (_, problems, _) = read_files(&[("p", "zzzzzzz 1\n")]);
        assert_eq!(problems, ["p:1: error: unknown directive \"zzzzzzz\""]);
        let (_, problems, _) = read_files(&[("p", "ignore-unknown-option yyyyyyy zzzzzzz\nzzzzzzz 1\n")]);
        assert!(problems.is_empty());
        let (_, problems, _) = read_files(&[("p", "setenv opt zzzzzzz 1\n")]);
        assert!(problems.is_empty());
        let (_, problems, _) = read_files(&[("p", "setenv FORWARD_COMPATIBLE 1\nzzzzzzz 1\n")]);
        assert_eq!(problems, ["p:2: warning: unknown directive \"zzzzzzz\""]);
        let (_, problems, _) = read_files(&[("p", "setenv FORWARD_COMPATIBLE 0\nzzzzzzz 1\n")]);
        assert_eq!(problems, ["p:2: error: unknown directive \"zzzzzzz\""]);
    }

    #[test]
    fn an_optional_directive_is_read_and_its_errors_are_warnings() {
        let (names, problems, _) = read_files(&[("p", "setenv opt verb 3\nsetenv opt verb\n")]);
        assert_eq!(names, ["p:1:verb"]);
        assert_eq!(problems, ["p:2: warning: verb takes 1 argument, and this line has 0: write it like `verb 3`"]);
    }

    #[test]
    fn the_form_of_a_line_is_checked() {
        for (line, part) in [
            ("client now", "takes no arguments, and this line has 1"),
            ("keepalive 10", "takes 2 arguments, and this line has 1"),
            ("remote", "takes 1 to 3"),
            ("remote a 1 udp x", "takes 1 to 3"),
            ("<verb>\n3\n</verb>", "not an inline block"),
            ("<zzzzzzz>\n3\n</zzzzzzz>", "unknown directive"),
            ("connection", "is a block"),
            ("config", "takes 1 argument,"),
        ] {
            let (_, problems, _) = read_files(&[("p", line)]);
            assert_eq!(problems.len(), 1, "{line}");
            assert!(problems[0].contains(part), "{}", problems[0]);
        }
    }

    #[test]
    fn a_profile_in_latin_1_is_read_with_a_warning() {
        let open = |_: &Path| Ok(b"# gr\xfc\xdfe\nclient\n".to_vec());
        let mut problems = Vec::new();
        assert_eq!(read(Path::new("p"), Side::Client, &open, &mut problems).entries.len(), 1);
        assert!(!problems[0].is_error());
    }
}
