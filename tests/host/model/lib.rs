// SPDX-License-Identifier: GPL-2.0

//! Models that property tests and fuzzing compare the engine with.
//!
//! - [`letters`], [`memory`]: contents that are easily confused, storage that fails
//! - [`mod@reference`]: a plain scanner of hash maps
//! - [`story`]: what happens on a machine; [`world`]: the machine, which checks every answer of the
//!   engine against the reference and against itself
//! - [`knob`]: the texts that the knobs accept, parsed with the standard library
//! - [`fuzz`]: both checks, for any string of bytes

pub mod fuzz;
pub mod knob;
pub mod letters;
pub mod memory;
pub mod reference;
pub mod story;
pub mod world;
