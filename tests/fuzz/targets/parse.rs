// SPDX-License-Identifier: GPL-2.0

//! See [`model::fuzz::parse`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| model::fuzz::parse(data));
