//! The `minivpn` executable: reads the command line and hands over.

use std::process::ExitCode;

use clap::Parser;
use minivpn::cli::{Cli, Command, Config};
use minivpn::exit::Exit;
use minivpn::{client, config, control_process, observe, sandbox};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The supervisor starts this executable again, with one word that no user types, as its control process.
    if std::env::args_os().nth(1).is_some_and(|word| word == sandbox::CONTROL_PROCESS) {
        return control_process::main();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Config } else { Exit::Ok }.into();
        }
    };
    let level = if cli.quiet { observe::log::Level::Error } else { cli.log_level };
    observe::log::init(cli.log_format, level);
    match cli.command {
        Command::Connect(connect) => client::main(connect, cli.log_format, cli.quiet),
        Command::Config { command: Config::Lint { file } } => lint(&file, cli.quiet),
    }
    .into()
}

/// `minivpn config lint FILE`: 0 when a profile can be run (warnings allowed), 2 otherwise.
fn lint(file: &std::path::Path, quiet: bool) -> Exit {
    let problems = config::lint(file);
    for problem in &problems {
        println!("{problem}");
    }
    let errors = problems.iter().filter(|p| p.severity == config::problem::Severity::Error).count();
    if !quiet {
        println!("{}: {errors} errors, {} warnings", file.display(), problems.len() - errors);
    }
    if errors == 0 { Exit::Ok } else { Exit::Config }
}
