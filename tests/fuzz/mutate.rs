//! How an input that was good goes bad: the steps a mutation is made of.

use proptest::collection::vec;
use proptest::prelude::*;

/// Pieces of YAML and JSON that mean something to a parser, and numbers at the edge of what fits.
const TOKENS: [&str; 34] = [
    "&a ",
    "*a",
    "<<: *a\n",
    "!!binary ",
    "!!float ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "|\n",
    ">\n",
    "- ",
    ": ",
    "\n  ",
    "\t",
    "#",
    "---\n",
    "...\n",
    "null",
    "~",
    ".nan",
    "-.inf",
    "1e999",
    "-1",
    "0x10",
    "18446744073709551616",
    "9007199254740993",
    "\u{0}",
    "\u{feff}",
    "\u{202e}",
    "..",
    "/",
];

/// One step. Places are parts of a whole (in 65,536ths), so that they fit inputs of any length.
#[derive(Debug, Clone)]
pub enum Step {
    Remove { at: u16, length: u8 },
    Repeat { at: u16, length: u8, times: u8 },
    Overwrite { at: u16, byte: u8 },
    Insert { at: u16, token: usize },
    CutOff { at: u16 },
}

/// Up to eight steps.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (any::<u16>(), any::<u8>()).prop_map(|(at, length)| Step::Remove { at, length }),
        (any::<u16>(), any::<u8>(), 1_u8..20).prop_map(|(at, length, times)| Step::Repeat {
            at,
            length,
            times
        }),
        (any::<u16>(), any::<u8>()).prop_map(|(at, byte)| Step::Overwrite { at, byte }),
        (any::<u16>(), 0..TOKENS.len()).prop_map(|(at, token)| Step::Insert { at, token }),
        any::<u16>().prop_map(|at| Step::CutOff { at }),
    ];
    vec(step, 1..8)
}

/// The input after these steps.
pub fn mutated(seed: &[u8], steps: &[Step]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for step in steps {
        let place = |at: u16| bytes.len() * usize::from(at) / 65_536;
        match *step {
            Step::Remove { at, length } => {
                let from = place(at);
                let to = (from + usize::from(length)).min(bytes.len());
                bytes.drain(from..to);
            }
            Step::Repeat { at, length, times } => {
                let from = place(at);
                let to = (from + usize::from(length)).min(bytes.len());
                let piece = bytes[from..to].repeat(usize::from(times));
                bytes.splice(to..to, piece);
            }
            Step::Overwrite { at, byte } => {
                let from = place(at);
                if let Some(there) = bytes.get_mut(from) {
                    *there = byte;
                }
            }
            Step::Insert { at, token } => {
                let from = place(at);
                bytes.splice(from..from, TOKENS[token].bytes());
            }
            Step::CutOff { at } => {
                let from = place(at);
                bytes.truncate(from);
            }
        }
    }
    bytes
}
