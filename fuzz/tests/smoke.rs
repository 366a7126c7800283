//! A small fuzzer on a stable toolchain: every target runs over pseudo-random inputs and over mutations of its corpus.
//! The seed is fixed, so a failure repeats; its input is printed in hexadecimal.
//!
//! ```text
//! FUZZ_INPUTS=200000 cargo test -p fuzz --test smoke     # so many inputs for each target instead of a few
//! FUZZ_SEED=7 cargo test -p fuzz --test smoke            # other inputs
//! ```

#![allow(clippy::unwrap_used)] // helpers of tests, too, end a test by panicking

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Inputs for each target when nothing else is said.
const INPUTS: u64 = 2_000;
/// No input grows longer than this, in bytes.
const MAX_LEN: usize = 4_096;

/// xorshift64*: good enough to choose mutations.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `n`, which is not 0.
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        (0..self.below(max + 1)).map(|_| (self.next() >> 24) as u8).collect()
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The folder's order is no order.
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// One change to an input.
fn mutate(dice: &mut Dice, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = dice.below(input.len() + 1);
    let until = at + dice.below(input.len() - at + 1);
    match dice.below(8) {
        0 | 1 if at < input.len() => input[at] ^= 1 << dice.below(8),
        2 if at < input.len() => input[at] = (dice.next() >> 24) as u8,
        3 if at < input.len() => input[at] = [0, 1, 0x7F, 0x80, 0xFE, 0xFF][dice.below(6)],
        4 => drop(input.drain(at..until)),
        5 => {
            let again = input[at..until].to_vec();
            input.splice(at..at, again);
        }
        6 => {
            let other = &seeds[dice.below(seeds.len())];
            let from = dice.below(other.len() + 1);
            input.splice(at..until, other[from..].iter().copied());
        }
        _ => {
            let new = dice.bytes(8);
            input.splice(at..at, new);
        }
    }
    input.truncate(MAX_LEN);
}

fn next_input(dice: &mut Dice, seeds: &[Vec<u8>]) -> Vec<u8> {
    if dice.below(8) == 0 {
        return dice.bytes(512);
    }
    let mut input = seeds[dice.below(seeds.len())].clone();
    for _ in 0..=dice.below(6) {
        mutate(dice, &mut input, seeds);
    }
    input
}

fn smoke(target: &str) {
    let (_, run) = fuzz::TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let seeds = corpus(target);
    let mut dice = Dice(number("FUZZ_SEED", 1) | 1 << 63);
    for index in 0..number("FUZZ_INPUTS", INPUTS) {
        let input = next_input(&mut dice, &seeds);
        if catch_unwind(AssertUnwindSafe(|| run(&input))).is_err() {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            panic!("{target}: input {index} of {} bytes: {hex}", input.len());
        }
    }
}

/// One test for each target, so that they run beside each other.
macro_rules! smoke {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                smoke(stringify!($target));
            }
        )*

        #[test]
        fn every_target_has_its_test() {
            let names: Vec<_> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($target)),*]);
        }
    };
}

smoke!(client coalesce control_packet inbound key_method link_mapping outbound profile push server split wrap);
