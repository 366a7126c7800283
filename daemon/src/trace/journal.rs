//! Where events go: lines on the terminal, JSON in a file or on standard output, and what is drawn in the end. It counts them, and
//! it is where a flood of forged packets ends.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use controlplane::Instant;
use controlplane::trace::Stage;

use super::event::{Event, Operation, Sums};
use super::{line, svg, waterfall};
use crate::cli::trace::Trace;
use crate::exit::{Exit, Fatal};
use crate::{clock, outln};

/// Packets that were ignored and ICMP errors: what is above is counted and not shown, since anybody can send them.
const MAX_NOISE: u64 = 2_000;
/// Packets that came or left are shown up to this many: one that somebody repeats for ever is a packet in, and its acknowledgement one out.
const MAX_SHOWN: u64 = 20_000;
/// Events that are kept to be drawn.
const MAX_KEPT: usize = 10_000;

/// The events of one trace.
pub(super) struct Journal {
    pub(super) started: Instant,
    pub(super) sums: Sums,
    lines: bool,
    json: Option<Json>,
    trouble: Option<Fatal>,
    /// The last stage that was told is `S_ERROR`.
    pub(super) in_error: bool,
    noise: u64,
    packets: u64,
    kept: Vec<Event>,
    draw: bool,
    /// Standard output is a program's, so that people look at standard error.
    aside: bool,
    picture: Option<PathBuf>,
}

enum Json {
    Stdout,
    File(File, PathBuf),
}

impl Journal {
    /// Opens the file, so that what cannot be written is known before anything is sent.
    ///
    /// # Errors
    /// [`Exit::Other`] when the file cannot be made.
    pub(super) fn open(options: &Trace, quiet: bool) -> Result<Journal, Fatal> {
        let aside = options.json_on_stdout();
        let json = match &options.out {
            _ if aside => Some(Json::Stdout),
            Some(path) => Some(Json::File(File::create(path).map_err(|e| unwritable(path, &e))?, path.clone())),
            None => None,
        };
        Ok(Journal {
            started: clock::now().at,
            sums: Sums {
                established: false,
                exit_status: Exit::Ok.status(),
                attempts: 0,
                packets_in: 0,
                packets_out: 0,
                packets_dropped: 0,
                retransmissions: 0,
                not_shown: 0,
                farewell: None,
            },
            lines: !quiet && !aside,
            json,
            trouble: None,
            in_error: false,
            noise: 0,
            packets: 0,
            kept: Vec::new(),
            draw: options.waterfall.is_some(),
            aside,
            picture: options.waterfall.clone().flatten(),
        })
    }

    /// Takes an event.
    pub(super) fn emit(&mut self, event: Event) {
        self.count(&event);
        if event.operation == Operation::State {
            self.in_error = event.stage == Stage::Error.as_str();
        }
        let bounded = match event.operation {
            Operation::PacketDropped | Operation::Icmp => Some((&mut self.noise, MAX_NOISE)),
            Operation::PacketIn | Operation::PacketOut => Some((&mut self.packets, MAX_SHOWN)),
            _ => None,
        };
        if let Some((count, most)) = bounded {
            *count += 1;
            if *count > most {
                self.sums.not_shown += 1;
                return;
            }
        }
        if self.lines {
            line::lines(&event).iter().for_each(|line| outln!("{line}"));
        }
        self.write_json(&event);
        if self.draw && self.kept.len() < MAX_KEPT {
            self.kept.push(event);
        }
    }

    /// Draws, and says what went wrong with the files.
    ///
    /// # Errors
    /// [`Exit::Other`] when a file could not be written.
    pub(super) fn finish(self) -> Result<(), Fatal> {
        if self.draw {
            let drawing = waterfall::draw(&self.kept);
            if self.aside {
                let _ = io::stderr().lock().write_all(drawing.as_bytes());
            } else {
                crate::out!("{drawing}");
            }
        }
        if let Some(path) = &self.picture {
            std::fs::write(path, svg::draw(&self.kept)).map_err(|e| unwritable(path, &e))?;
        }
        self.trouble.map_or(Ok(()), Err)
    }

    fn count(&mut self, event: &Event) {
        let count = match event.operation {
            Operation::PacketIn => &mut self.sums.packets_in,
            Operation::PacketOut => &mut self.sums.packets_out,
            Operation::PacketDropped => &mut self.sums.packets_dropped,
            _ => return,
        };
        *count += 1;
        if event.is_retransmission() {
            self.sums.retransmissions += 1;
        }
    }

    fn write_json(&mut self, event: &Event) {
        // It is made of texts and numbers, which always have a form.
        let Ok(mut text) = serde_json::to_string(event) else { return };
        match &mut self.json {
            Some(Json::Stdout) => outln!("{text}"),
            Some(Json::File(file, path)) => {
                text.push('\n');
                if let Err(error) = file.write_all(text.as_bytes()) {
                    self.trouble.get_or_insert(unwritable(path, &error));
                }
            }
            None => {}
        }
    }
}

fn unwritable(path: &std::path::Path, error: &io::Error) -> Fatal {
    Fatal::new(Exit::Other, format!("{} cannot be written: {error}", path.display()))
}
