// SPDX-License-Identifier: GPL-2.0

//! Tests of the engine against models of it, and of its documented API.
//!
//! - [`api`]: what the documentation of `KsmScanner` promises, one test a sentence
//! - [`rules`]: the rules beyond it, each in the smallest story that shows it
//! - [`stories`]: random stories of a whole machine, where every answer is checked against a plain
//!   scanner of hash maps, and against the machine itself
//! - [`table`]: the hash table against `HashMap`
//! - [`flooding`]: pages that somebody makes to collide
//! - [`seats`]: how many pages one shared frame may take
//! - [`property`]: how properties are run

#[path = "engine/api.rs"]
mod api;
#[path = "engine/flooding.rs"]
mod flooding;
#[path = "engine/property.rs"]
mod property;
#[path = "engine/rules.rs"]
mod rules;
#[path = "engine/seats.rs"]
mod seats;
#[path = "engine/stories.rs"]
mod stories;
#[path = "engine/table.rs"]
mod table;
