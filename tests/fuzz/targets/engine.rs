// SPDX-License-Identifier: GPL-2.0

//! See [`model::fuzz::engine`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| model::fuzz::engine(data));
