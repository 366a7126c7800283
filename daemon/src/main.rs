//! The `minivpn` executable: reads the command line and hands over.

#![deny(clippy::print_stdout)] // `outln!` does not end a command whose reader is gone

use std::process::ExitCode;

use minivpn::cli::{Command, Config};
use minivpn::exit::Exit;
use minivpn::gateway::requests;
use minivpn::host::privileges;
use minivpn::outln;
use minivpn::{
    bench, client, config, control_process, environment, gateway, healthcheck, observe, ping, proxy, sandbox, trace,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The supervisor starts this executable again, with one word that no user types, as its control process.
    if std::env::args_os().nth(1).is_some_and(|word| word == sandbox::CONTROL_PROCESS) {
        return control_process::main();
    }
    let cli = match environment::parse(std::env::args_os(), std::env::vars_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Config } else { Exit::Ok }.into();
        }
    };
    let level = if cli.quiet { observe::log::Level::Error } else { cli.log_level };
    observe::log::init(cli.log_format, level);
    privileges::raise_permitted();
    match cli.command {
        Command::Connect(connect) => client::main(connect, cli.log_format, cli.quiet),
        Command::Proxy(options) => proxy::main(&options, cli.quiet),
        Command::Ping(options) => ping::main(&options, cli.quiet),
        Command::Status(options) => requests::status(&options),
        Command::Gateway { command } => gateway::main(&command, cli.log_format, cli.quiet),
        Command::Client { command } => gateway::client_main(&command),
        Command::Pki { command } => gateway::pki_main(&command),
        Command::Trace(options) => trace::main(options, cli.quiet),
        Command::Bench(options) => bench::main(&options, cli.quiet),
        Command::Healthcheck(options) => healthcheck::main(&options, cli.quiet),
        Command::Config { command: Config::Lint { file } } => lint(&file, cli.quiet),
    }
    .into()
}

/// `minivpn config lint FILE`: 0 when a profile can be run, or a server's configuration be served (warnings allowed), 2 otherwise.
fn lint(file: &std::path::Path, quiet: bool) -> Exit {
    let problems = config::lint(file);
    for problem in &problems {
        outln!("{problem}");
    }
    let mut errors = problems.iter().filter(|problem| problem.is_error()).count();
    let warnings = problems.len() - errors;
    // What stands in certificates and keys is looked at once the lines are right.
    if errors == 0 {
        for sentence in unusable(file) {
            outln!("{}: error: {sentence}", file.display());
            errors += 1;
        }
    }
    if !quiet {
        outln!("{}: {}, {}", file.display(), count(errors, "error"), count(warnings, "warning"));
    }
    if errors == 0 { Exit::Ok } else { Exit::Config }
}

fn unusable(file: &std::path::Path) -> Vec<String> {
    if config::is_server(file) {
        return config::load_server(file).map_or_else(|_| Vec::new(), |(profile, _)| config::unusable(&profile));
    }
    config::load(file).map_or_else(|_| Vec::new(), |(profile, _)| client::unusable(&profile))
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
