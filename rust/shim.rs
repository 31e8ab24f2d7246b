// SPDX-License-Identifier: GPL-2.0

//! Declarations of the C shims and of the functions in `imports.c`, generated from `shim/shim.h`.
//!
//! Types come from `kernel::bindings`. Only [`crate::mm`], [`crate::sys`] and [`crate::trace`] use this
//! module.

#![allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

use kernel::bindings::*;

include!(concat!(env!("KSM_V_OBJ"), "/shim_generated.rs"));
