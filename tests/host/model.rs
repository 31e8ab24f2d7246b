// SPDX-License-Identifier: GPL-2.0

//! Tests of the engine against models of it, and of its documented API.
//!
//! - [`api`]: what the documentation of `KsmScanner` promises, one test a sentence
//! - [`rules`]: the rules beyond it, each in the smallest story that shows it
//! - [`world`]: random stories of a whole machine, where every answer is checked against
//!   [`reference`], a plain scanner of hash maps, and against the machine itself
//! - [`table`]: the hash table against `HashMap`
//! - [`letters`], [`memory`], [`property`]: contents, storage that fails, how properties are run

#[path = "model/api.rs"]
mod api;
#[path = "model/letters.rs"]
mod letters;
#[path = "model/memory.rs"]
mod memory;
#[path = "model/property.rs"]
mod property;
#[path = "model/reference.rs"]
mod reference;
#[path = "model/rules.rs"]
mod rules;
#[path = "model/table.rs"]
mod table;
#[path = "model/world.rs"]
mod world;
