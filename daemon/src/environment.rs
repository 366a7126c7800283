//! The environment as a second command line: every option `--some-flag` of the command that runs can be given as
//! `MINIVPN_SOME_FLAG`, and one that takes a value also as `MINIVPN_SOME_FLAG_FILE`, the name of a file that holds the value. What
//! stands on the command line wins. It works on the definition of the command line, so that a new option is covered by being one.
//!
//! A switch is on for `1`, `true`, `yes`, `on`, and off for `0`, `false`, `no`, `off`. An empty variable counts as none (compose
//! files make them). A variable that begins with `MINIVPN_` and means nothing is an error, with the nearest name: a misspelt option
//! of a container would otherwise be silently missing.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

use crate::cli::Cli;
use crate::config::directives;

/// What every variable of ours begins with.
const PREFIX: &str = "MINIVPN_";

/// What a variable ends with that names a file.
const FILE: &str = "_FILE";

/// Variables that are no option of any command: where the control socket is, for the commands that ask it.
const RESERVED: [&str; 1] = ["MINIVPN_SOCKET"];

/// Variables of the test programs, which start this one.
const EXEMPT: [&str; 2] = ["MINIVPN_TEST_", "MINIVPN_BIN"];

/// The longest value that a file may hold, in bytes.
const MAX_VALUE: u64 = 64 * 1024;

/// Reads the command line and the variables.
///
/// # Errors
/// As clap's: it prints itself, and says whether it is an error or what `--help` and `--version` print.
pub fn parse(
    words: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&matches(alone(Cli::command()), words.into_iter().collect(), ours(variables))?)
}

/// The definition with no variables of clap's own: they would read empty ones, and switches otherwise than it is said here.
fn alone(definition: Command) -> Command {
    definition.mut_args(|arg| arg.env(None::<&'static str>)).mut_subcommands(alone)
}

/// The variables that are ours and not empty, by name.
type Variables = Vec<(String, OsString)>;

fn ours(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Variables {
    let named = variables.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let mut ours: Variables = named
        .filter(|(name, _)| name.starts_with(PREFIX) && !EXEMPT.iter().any(|exempt| name.starts_with(exempt)))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    ours.sort();
    ours
}

fn matches(definition: Command, words: Vec<OsString>, variables: Variables) -> Result<ArgMatches, clap::Error> {
    let injected = match unknown(&definition, &variables) {
        Some(sentence) => Err(sentence),
        None => from_variables(&definition, &words, &variables),
    };
    let (injected, trouble) = match injected {
        Ok(injected) => (injected, None),
        Err(sentence) => (Vec::new(), Some(sentence)),
    };
    let more = injected.iter().map(Injected::word);
    let outcome = definition.clone().try_get_matches_from(before_the_end(words, more.collect()));
    match (outcome, trouble) {
        // Somebody who asks for help is helped.
        (Err(error), _) if !error.use_stderr() => Err(error),
        (_, Some(sentence)) => Err(definition.clone().error(ErrorKind::InvalidValue, sentence)),
        (Err(error), None) => Err(blaming(&definition, error, &injected)),
        (Ok(matches), None) => Ok(matches),
    }
}

/// Whatever follows `--` is no option.
fn before_the_end(mut words: Vec<OsString>, more: Vec<OsString>) -> Vec<OsString> {
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    words.splice(end..end, more);
    words
}

/// An option that a variable gives.
struct Injected {
    flag: String,
    /// `None` for a switch.
    value: Option<OsString>,
    variable: String,
}

impl Injected {
    fn word(&self) -> OsString {
        let mut word = OsString::from(format!("--{}", self.flag));
        if let Some(value) = &self.value {
            word.push("=");
            word.push(value);
        }
        word
    }
}

/// The options that the variables give to the command that is called, less those that the command line gives or excludes.
fn from_variables(definition: &Command, words: &[OsString], variables: &Variables) -> Result<Vec<Injected>, String> {
    if variables.is_empty() {
        return Ok(Vec::new());
    }
    // A first look that forgives errors: which command is it, and what is said already? The second look reports them.
    let Ok(matches) = definition.clone().ignore_errors(true).try_get_matches_from(words) else {
        return Ok(Vec::new());
    };
    let mut built = definition.clone();
    built.build();
    let (mut command, mut matches) = (&built, &matches);
    while let Some((name, inner)) = matches.subcommand() {
        let Some(next) = command.find_subcommand(name) else { return Ok(Vec::new()) };
        (command, matches) = (next, inner);
    }
    // A command that wants another word prints its help.
    if command.is_subcommand_required_set() {
        return Ok(Vec::new());
    }
    let mut injected = Vec::new();
    for arg in command.get_arguments().filter(|arg| takes_variables(arg)) {
        if command.get_arguments().any(|said| is_said(matches, said) && excludes(command, said, arg)) {
            continue;
        }
        injected.extend(of_arg(arg, variables)?);
    }
    Ok(injected)
}

/// Whether an option that is said leaves no room for another: it is the same, or one of the two conflicts with the other.
fn excludes(command: &Command, said: &Arg, other: &Arg) -> bool {
    let conflicts = |a: &Arg, b: &Arg| command.get_arg_conflicts_with(a).iter().any(|with| with.get_id() == b.get_id());
    said.get_id() == other.get_id() || conflicts(said, other) || conflicts(other, said)
}

fn is_said(matches: &ArgMatches, arg: &Arg) -> bool {
    matches.try_contains_id(arg.get_id().as_str()).is_ok_and(|known| known)
        && matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
}

fn takes_variables(arg: &Arg) -> bool {
    let help =
        matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version);
    arg.get_long().is_some() && !help
}

fn takes_a_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

/// `MINIVPN_SOME_FLAG` for `--some-flag`.
fn variable_of(flag: &str) -> String {
    format!("{PREFIX}{}", flag.to_ascii_uppercase().replace('-', "_"))
}

fn value_of<'a>(variables: &'a Variables, name: &str) -> Option<&'a OsStr> {
    variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
}

fn of_arg(arg: &Arg, variables: &Variables) -> Result<Option<Injected>, String> {
    let Some(flag) = arg.get_long() else { return Ok(None) };
    let variable = variable_of(flag);
    let file = format!("{variable}{FILE}");
    let injected = |value, variable| Some(Injected { flag: flag.to_owned(), value, variable });
    match (value_of(variables, &variable), value_of(variables, &file).filter(|_| takes_a_value(arg))) {
        (Some(_), Some(_)) => Err(format!("{variable} and {file} are both set: one of them is enough")),
        (Some(value), None) if takes_a_value(arg) => Ok(injected(Some(value.to_owned()), variable)),
        (Some(value), None) => match is_on(value) {
            Some(true) => Ok(injected(None, variable)),
            Some(false) => Ok(None),
            None => Err(format!("{variable} is a switch: 1, true, yes or on; 0, false, no or off")),
        },
        (None, Some(path)) => Ok(injected(Some(content_of(&file, path)?), file)),
        (None, None) => Ok(None),
    }
}

fn is_on(value: &OsStr) -> Option<bool> {
    match value.to_str()?.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// The value in a file, without the line's end that editors leave. A message names the file and never what is in it.
fn content_of(variable: &str, path: &OsStr) -> Result<OsString, String> {
    let trouble = |what: &str| format!("{variable}={}: {what}", path.display());
    let mut text = String::new();
    let file = File::open(path).map_err(|error| trouble(&error.to_string()))?;
    let read = file.take(MAX_VALUE + 1).read_to_string(&mut text).map_err(|error| trouble(&error.to_string()))?;
    if read as u64 > MAX_VALUE {
        return Err(trouble(&format!("longer than {MAX_VALUE} bytes, which no value is")));
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.contains('\0') {
        return Err(trouble("has a NUL in it"));
    }
    Ok(line.into())
}

/// A sentence about the first variable that means nothing in any command.
fn unknown(definition: &Command, variables: &Variables) -> Option<String> {
    let known = names(definition);
    let (name, _) = variables.iter().find(|(name, _)| !known.contains(name))?;
    let mut sentence = format!("the environment variable {name} means nothing to minivpn");
    match nearest(name, &known) {
        Some(near) => sentence.push_str(&format!(": did you mean {near}?")),
        None if name.starts_with("MINIVPN_SERVICE_") || name.starts_with("MINIVPN_PORT_") => {
            sentence.push_str(
                ". Kubernetes sets it for a Service called minivpn: write `enableServiceLinks: false` into the pod's spec",
            );
        }
        None => {
            sentence.push_str(": variables that begin with MINIVPN_ are options (MINIVPN_SOME_FLAG for --some-flag)")
        }
    }
    Some(sentence)
}

/// The names that mean something, of all commands.
fn names(definition: &Command) -> Vec<String> {
    let mut names: Vec<String> = RESERVED.map(str::to_owned).to_vec();
    collect(definition, &mut names);
    names.sort();
    names.dedup();
    names
}

fn collect(command: &Command, names: &mut Vec<String>) {
    for arg in command.get_arguments().filter(|arg| takes_variables(arg)) {
        let Some(flag) = arg.get_long() else { continue };
        let name = variable_of(flag);
        if takes_a_value(arg) {
            names.push(format!("{name}{FILE}"));
        }
        names.push(name);
    }
    for inner in command.get_subcommands() {
        collect(inner, names);
    }
}

fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    const BOUND: usize = 3;
    if name.len() > 64 {
        return None;
    }
    let close = known.iter().filter(|known| known.len().abs_diff(name.len()) <= BOUND);
    let distances = close.map(|known| (directives::distance(name, known), known.as_str()));
    distances.filter(|(distance, _)| *distance <= BOUND).min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

/// An error about an option that nobody typed says where it came from.
fn blaming(definition: &Command, error: clap::Error, injected: &[Injected]) -> clap::Error {
    let of = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    let named = format!("{} {}", of(ContextKind::InvalidArg), of(ContextKind::PriorArg));
    let is_named = |flag: &str| named.split([' ', '=']).any(|word| word.strip_prefix("--") == Some(flag));
    let Some(culprit) = injected.iter().find(|injected| is_named(&injected.flag)) else { return error };
    // A file may hold a secret: what clap says of a value is kept back.
    let sentence = match culprit.variable.ends_with(FILE) && error.get(ContextKind::InvalidValue).is_some() {
        true => format!("what the file of {} holds is no value for --{}", culprit.variable, culprit.flag),
        false => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            let what = first.strip_prefix("error: ").unwrap_or(first);
            format!("{what} (it comes from the environment variable {})", culprit.variable)
        }
    };
    definition.clone().error(error.kind(), sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    fn given(words: &[&str], variables: &[(&str, &str)]) -> Result<Cli, String> {
        let words = ["minivpn"].iter().chain(words).map(OsString::from);
        let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        parse(words, variables).map_err(|error| error.to_string())
    }

    fn connect(words: &[&str], variables: &[(&str, &str)]) -> Result<cli::Connect, String> {
        given(&[&["connect", "x.ovpn"], words].concat(), variables).map(|cli| match cli.command {
            cli::Command::Connect(connect) => connect,
            other => unreachable!("{other:?}"),
        })
    }

    fn file(content: &str) -> (tempfile::Path, String) {
        let path = tempfile::new(content);
        let text = path.0.display().to_string();
        (path, text)
    }

    /// A file that goes with the test.
    mod tempfile {
        use std::path::PathBuf;
        use std::sync::atomic::{AtomicU32, Ordering};

        static NUMBER: AtomicU32 = AtomicU32::new(0);

        pub(super) struct Path(pub(super) PathBuf);

        pub(super) fn new(content: &str) -> Path {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("minivpn-environment-{}-{number}", std::process::id()));
            std::fs::write(&path, content).unwrap();
            Path(path)
        }

        impl Drop for Path {
            fn drop(&mut self) {
                let _ = std::fs::remove_file(&self.0);
            }
        }
    }

    #[test]
    fn a_variable_stands_for_an_option() {
        let set = connect(&[], &[("MINIVPN_BUSY_POLL", "50"), ("MINIVPN_UDP_GSO", "off"), ("MINIVPN_ZERO_COPY", "on")])
            .unwrap();
        assert_eq!((set.data.busy_poll, set.data.udp_gso), (50, cli::Switch::Off));
        assert_eq!(set.data.zero_copy, cli::ZeroCopy::On);
        assert_eq!(connect(&[], &[]).unwrap().data.busy_poll, 0);
        assert_eq!(connect(&[], &[("MINIVPN_BUSY_POLL", "")]).unwrap().data.busy_poll, 0);
    }

    #[test]
    fn the_command_line_wins() {
        assert_eq!(connect(&["--busy-poll", "7"], &[("MINIVPN_BUSY_POLL", "50")]).unwrap().data.busy_poll, 7);
        let set = connect(&["--cpu-list", "0"], &[("MINIVPN_CPU", "none")]).unwrap();
        assert_eq!(set.data.cpu_list, Some(cli::CpuList(vec![0])), "also over one that it excludes");
        assert!(connect(&[], &[("MINIVPN_CPU", "none"), ("MINIVPN_CPU_LIST", "0")]).is_err());
    }

    #[test]
    fn no_option_reads_the_environment_by_itself() {
        fn walk(command: &Command) {
            for arg in command.get_arguments() {
                assert_eq!(arg.get_env(), None, "{} {arg}", command.get_name());
            }
            command.get_subcommands().for_each(walk);
        }
        let one = Command::new("a").subcommand(Command::new("b").arg(Arg::new("c").long("c").env("PATH")));
        walk(&alone(one));
        walk(&alone(Cli::command()));
    }

    #[test]
    fn a_switch_is_on_or_off() {
        for (value, quiet) in [("1", true), ("TRUE", true), ("yes", true), ("off", false), ("0", false), ("", false)] {
            let cli = given(&["connect", "x.ovpn"], &[("MINIVPN_QUIET", value)]).unwrap();
            assert_eq!(cli.quiet, quiet, "{value:?}");
        }
        let error = given(&["connect", "x.ovpn"], &[("MINIVPN_QUIET", "maybe")]).unwrap_err();
        assert!(error.contains("MINIVPN_QUIET is a switch"), "{error}");
        assert!(given(&["-q", "connect", "x.ovpn"], &[("MINIVPN_QUIET", "0")]).unwrap().quiet);
        assert!(given(&["connect", "-q", "x.ovpn"], &[("MINIVPN_QUIET", "1")]).unwrap().quiet);
    }

    #[test]
    fn a_value_may_stand_in_a_file() {
        for content in ["50", "50\n", "50\r\n"] {
            let (_file, path) = file(content);
            assert_eq!(connect(&[], &[("MINIVPN_BUSY_POLL_FILE", &path)]).unwrap().data.busy_poll, 50, "{content:?}");
            assert_eq!(connect(&["--busy-poll=7"], &[("MINIVPN_BUSY_POLL_FILE", &path)]).unwrap().data.busy_poll, 7);
        }
        let (_file, path) = file("50\n\n");
        assert!(connect(&[], &[("MINIVPN_BUSY_POLL_FILE", &path)]).is_err(), "one line's end is the editor's");
        let error = connect(&[], &[("MINIVPN_BUSY_POLL_FILE", "/nonexistent/value")]).unwrap_err();
        assert!(error.contains("MINIVPN_BUSY_POLL_FILE=/nonexistent/value: No such file"), "{error}");
        let both = connect(&[], &[("MINIVPN_BUSY_POLL_FILE", &path), ("MINIVPN_BUSY_POLL", "1")]).unwrap_err();
        assert!(both.contains("MINIVPN_BUSY_POLL and MINIVPN_BUSY_POLL_FILE are both set"), "{both}");
    }

    #[test]
    fn a_file_that_is_too_long_is_refused_and_what_it_holds_is_not_printed() {
        let (_file, path) = file(&"1".repeat(65_537));
        assert!(connect(&[], &[("MINIVPN_RUN_DIR_FILE", &path)]).unwrap_err().contains("longer than 65536"));
        let (_file, path) = file(&"1".repeat(65_536));
        assert_eq!(connect(&[], &[("MINIVPN_RUN_DIR_FILE", &path)]).unwrap().data.run_dir.as_os_str().len(), 65_536);
        let (_file, path) = file("geheim");
        let error = connect(&[], &[("MINIVPN_BUSY_POLL_FILE", &path)]).unwrap_err();
        assert!(error.contains("MINIVPN_BUSY_POLL_FILE") && !error.contains("geheim"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_blamed_on_its_variable() {
        let error = connect(&[], &[("MINIVPN_BUSY_POLL", "soon")]).unwrap_err();
        assert!(error.contains("'soon'") && error.contains("environment variable MINIVPN_BUSY_POLL"), "{error}");
        let typed = connect(&["--busy-poll", "soon"], &[("MINIVPN_CPU", "none")]).unwrap_err();
        assert!(typed.contains("'soon'") && !typed.contains("environment variable"), "{typed}");
    }

    #[test]
    fn an_unknown_variable_is_an_error_that_suggests() {
        let error = connect(&[], &[("MINIVPN_BUSY_POL", "1")]).unwrap_err();
        assert!(error.contains("MINIVPN_BUSY_POL means nothing"), "{error}");
        assert!(error.contains("did you mean MINIVPN_BUSY_POLL?"), "{error}");
        let switch = connect(&[], &[("MINIVPN_QUIET_FILE", "/dev/null")]).unwrap_err();
        assert!(switch.contains("MINIVPN_QUIET_FILE means nothing"), "a switch has no file: {switch}");
        let far = connect(&[], &[("MINIVPN_WEATHER", "1")]).unwrap_err();
        assert!(far.contains("means nothing") && !far.contains("did you mean"), "{far}");
        let service = connect(&[], &[("MINIVPN_SERVICE_HOST", "10.0.0.1")]).unwrap_err();
        assert!(service.contains("enableServiceLinks: false"), "{service}");
    }

    #[test]
    fn what_is_reserved_or_belongs_to_tests_or_others_is_let_be() {
        for name in ["MINIVPN_SOCKET", "MINIVPN_TEST_LONG", "MINIVPN_BIN", "MINIVPNX", "PATH"] {
            assert!(connect(&[], &[(name, "1")]).is_ok(), "{name}");
        }
        // An option of another command is known, and concerns that one.
        assert!(connect(&[], &[("MINIVPN_ROUNDS", "3")]).is_ok());
    }

    #[test]
    fn help_is_given_in_any_environment() {
        for words in [&["--help"][..], &["connect", "--help"], &["--version"]] {
            let words = ["minivpn"].iter().chain(words).map(OsString::from);
            let error = parse(words, [("MINIVPN_BUSY_POL".into(), "1".into())]).unwrap_err();
            assert!(!error.use_stderr(), "{error}");
        }
        let alone = parse(["minivpn".into()], [("MINIVPN_LOG_LEVEL".into(), "debug".into())]).unwrap_err();
        assert_eq!(alone.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
    }

    #[test]
    fn errors_of_the_command_line_stay_what_they_are() {
        for words in [&["connect"][..], &["connect", "x", "--nonsense"], &["nonsense"], &["config"]] {
            let trouble = |variables: &[(&str, &str)]| {
                let text = given(words, variables).unwrap_err();
                text.split("Usage:").next().map(str::to_owned)
            };
            assert_eq!(trouble(&[("MINIVPN_LOG_LEVEL", "debug")]), trouble(&[]), "{words:?}");
        }
    }

    #[test]
    fn words_after_two_dashes_are_no_options() {
        let cli = given(&["connect", "--", "--quiet"], &[("MINIVPN_BUSY_POLL", "9")]).unwrap();
        let cli::Command::Connect(connect) = cli.command else { unreachable!() };
        assert_eq!((connect.file.to_str(), connect.data.busy_poll), (Some("--quiet"), 9));
    }

    /// Walks the definition: every option of every command is found again under its variable's name, and given to clap.
    #[test]
    fn every_option_of_every_command_has_its_variable() {
        let definition = Cli::command();
        let mut walked = 0;
        walk(&definition, &mut vec![definition.get_name().to_owned()], &mut walked);
        assert!(walked > 30, "{walked}");
    }

    fn walk(command: &Command, path: &mut Vec<String>, walked: &mut usize) {
        for inner in command.get_subcommands() {
            path.push(inner.get_name().to_owned());
            for arg in inner.get_arguments().chain(Cli::command().get_arguments()) {
                if arg.is_positional() || inner.is_subcommand_required_set() {
                    continue;
                }
                assert!(arg.get_long().is_some(), "{path:?}: {arg:?} has a long name");
                assert_has_variable(path, arg);
                *walked += 1;
            }
            walk(inner, path, walked);
            path.pop();
        }
    }

    fn assert_has_variable(path: &[String], arg: &Arg) {
        let name = variable_of(arg.get_long().unwrap());
        let words: Vec<OsString> = path.iter().map(OsString::from).collect();
        let value = if takes_a_value(arg) { "7" } else { "1" };
        let injected = |name: &str, value: &str| {
            let variables = ours([(OsString::from(name), OsString::from(value))]);
            assert_eq!(unknown(&Cli::command(), &variables), None);
            from_variables(&Cli::command(), &words, &variables).unwrap()
        };
        let plain = injected(&name, value);
        let expected = if takes_a_value(arg) {
            format!("--{}=7", arg.get_long().unwrap())
        } else {
            format!("--{}", arg.get_long().unwrap())
        };
        assert_eq!(
            plain.iter().map(Injected::word).collect::<Vec<_>>(),
            [OsString::from(expected.clone())],
            "{path:?}"
        );
        if takes_a_value(arg) {
            let (_file, path) = file("7\n");
            let filed = injected(&format!("{name}{FILE}"), &path);
            assert_eq!(filed.iter().map(Injected::word).collect::<Vec<_>>(), [OsString::from(expected)]);
        }
    }
}
