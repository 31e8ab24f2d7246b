// SPDX-License-Identifier: GPL-2.0

//! What the engine is held against, by property tests and by fuzzing alike.
//!
//! - [`letters`], [`memory`]: contents that are easily confused, storage that fails
//! - [`mod@reference`]: a plain scanner of hash maps
//! - [`story`]: what happens on a machine; [`world`]: the machine, which checks every answer of the
//!   engine against the reference and against itself
//! - [`knob`]: what texts the knobs take, said with the standard library
//! - [`fuzz`]: both checks, for any string of bytes

pub mod fuzz;
pub mod knob;
pub mod letters;
pub mod memory;
pub mod reference;
pub mod story;
pub mod world;
