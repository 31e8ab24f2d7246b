// SPDX-License-Identifier: GPL-2.0

//! Tests of the engine against models, and of its documented API.
//!
//! - [`api`]: the promises of `KsmScanner`'s documentation, one test per sentence
//! - [`rules`]: the rules beyond it, each in the smallest story that shows it
//! - [`stories`]: random stories of a whole machine, where every answer is checked against a plain
//!   scanner of hash maps, and against the machine itself
//! - [`table`]: the hash table against `HashMap`
//! - [`flooding`]: pages that were made to collide
//! - [`seats`]: the number of pages that may be merged into one shared frame
//! - [`property`]: how properties are checked

mod api;
mod flooding;
mod property;
mod rules;
mod seats;
mod stories;
mod table;
