// SPDX-License-Identifier: GPL-2.0

//! Stub of the virtual machine, whose programs are written for x86.

use std::time::Duration;

use crate::Span;

/// Same as in `machine.rs`.
pub const RESERVED_PAGES: u64 = 2;

type Outcome<T = ()> = Result<T, String>;

/// An empty type: no machine can be created.
pub(super) enum Machine {}

impl Machine {
    pub(super) fn new(_ram: Span) -> Outcome<Self> {
        Err("the programs of the virtual machine are written for x86".into())
    }

    pub(super) fn write(&mut self, _span: Span, _first: u64) -> Outcome {
        match *self {}
    }

    pub(super) fn sum(&mut self, _span: Span) -> Outcome<u64> {
        match *self {}
    }

    pub(super) fn flip(&mut self, _span: Span, _mark: u64, _time: Duration) -> Outcome<u64> {
        match *self {}
    }
}
