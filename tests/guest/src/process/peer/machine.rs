// SPDX-License-Identifier: GPL-2.0

//! A KVM virtual machine with one CPU; its RAM is memory of the peer.
//!
//! It has no firmware and no kernel: each program below runs until its `hlt` in 32-bit protected mode
//! without paging, so its addresses are guest-physical. Programs take their arguments in registers
//! and leave their results there.

use std::arch::global_asm;
use std::time::Duration;
use std::time::Instant;

use kvm_bindings::kvm_regs;
use kvm_bindings::kvm_segment;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::Kvm;
use kvm_ioctls::VcpuExit;
use kvm_ioctls::VcpuFd;
use kvm_ioctls::VmFd;

use crate::memory::content::PAGE_SIZE;
use crate::Span;

// Code for the guest: the host only copies the bytes.
global_asm!(
    ".pushsection .rodata.ksm_v_machine, \"a\"",
    ".code32",
    ".globl ksm_v_machine_begin, ksm_v_machine_write, ksm_v_machine_sum",
    ".globl ksm_v_machine_flip, ksm_v_machine_end",
    "ksm_v_machine_begin:",
    // Writes eax, eax + 1, ... to the first words of the ecx pages that start at edi.
    "ksm_v_machine_write:",
    "2:",
    "mov [edi], eax",
    "add edi, 4096",
    "inc eax",
    "dec ecx",
    "jnz 2b",
    "hlt",
    // Leaves the checksum of the ecx words that start at esi in eax; see `checksum`.
    "ksm_v_machine_sum:",
    "xor eax, eax",
    "2:",
    "imul eax, eax, 31",
    "add eax, [esi]",
    "add esi, 4",
    "dec ecx",
    "jnz 2b",
    "hlt",
    // Repeats edx times: compares the first word of each of the ecx pages that start at esi with the
    // table at ebp, and changes both by xor with ebx. Ends early at a mismatch, with edx above 0, the
    // page index in edi and the word found in eax.
    "ksm_v_machine_flip:",
    "2:",
    "xor edi, edi",
    "mov esp, esi",
    "3:",
    "mov eax, [esp]",
    "cmp eax, [ebp + edi * 4]",
    "jne 4f",
    "xor eax, ebx",
    "mov [esp], eax",
    "mov [ebp + edi * 4], eax",
    "add esp, 4096",
    "inc edi",
    "cmp edi, ecx",
    "jne 3b",
    "dec edx",
    "jnz 2b",
    "4:",
    "hlt",
    "ksm_v_machine_end:",
    ".code64",
    ".popsection",
);

extern "C" {
    static ksm_v_machine_begin: u8;
    static ksm_v_machine_write: u8;
    static ksm_v_machine_sum: u8;
    static ksm_v_machine_flip: u8;
    static ksm_v_machine_end: u8;
}

/// The number of RAM pages used by the programs and the table of `flip`; the test uses the rest.
pub const RESERVED_PAGES: u64 = 2;
/// The guest-physical address of the table.
const TABLE: u64 = PAGE_SIZE;
/// The maximum number of pages for `flip`: the table is one page.
const MOST_FLIPPED: u64 = PAGE_SIZE / 4;
/// Rounds of one run of `flip`: an even number restores the pages ...
const ROUNDS: u64 = 16;
/// ... for this pause, in which they may be merged.
const PAUSE: Duration = Duration::from_millis(4);

/// Bit 0 of cr0: protected mode.
const CR0_PE: u64 = 1;
/// Bit 1 of rflags, which is always set.
const RFLAGS_FIXED: u64 = 1 << 1;

/// Like `Result`, with a text as the error; most programs return nothing to the host.
type Outcome<T = ()> = Result<T, String>;

/// A virtual machine.
pub(super) struct Machine {
    vcpu: VcpuFd,
    _vm: VmFd,
    ram: Span,
}

impl Machine {
    /// Creates a machine with a span as its RAM, and copies the programs into the first page.
    pub(super) fn new(ram: Span) -> Outcome<Self> {
        copy_programs(ram.addr);
        let kvm = Kvm::new().map_err(|error| format!("opening /dev/kvm: {error}"))?;
        let vm = kvm.create_vm().map_err(text)?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: ram.bytes(),
            userspace_addr: ram.addr,
        };
        // SAFETY: Nothing but the RAM is in the span, so no Rust reference aliases it. The
        // guest may access it at any time; this process uses volatile accesses only.
        unsafe { vm.set_user_memory_region(region) }.map_err(text)?;
        let vcpu = vm.create_vcpu(0).map_err(text)?;
        enter_protected_mode(&vcpu).map_err(text)?;
        Ok(Machine { vcpu, _vm: vm, ram })
    }

    /// Makes the guest write `first`, `first + 1`, ... to the first word of each page of a span.
    pub(super) fn write(&mut self, span: Span, first: u64) -> Outcome {
        self.run(&raw const ksm_v_machine_write, |regs| {
            regs.rdi = span.addr;
            regs.rcx = span.pages;
            regs.rax = first;
        })
        .map(drop)
    }

    /// The checksum of a span, computed by the guest.
    pub(super) fn sum(&mut self, span: Span) -> Outcome<u64> {
        let regs = self.run(&raw const ksm_v_machine_sum, |regs| {
            regs.rsi = span.addr;
            regs.rcx = span.bytes() / 4;
        })?;
        Ok(regs.rax & u64::from(u32::MAX))
    }

    /// Makes the guest repeatedly change and restore the first word of each page of a span for the
    /// given time, and compare it with what it wrote. Returns the number of writes.
    pub(super) fn flip(&mut self, span: Span, mark: u64, time: Duration) -> Outcome<u64> {
        if span.pages > MOST_FLIPPED {
            return Err(format!("{span:?} has more than {MOST_FLIPPED} pages"));
        }
        for index in 0..span.pages {
            let word = self.word(span.page(index).addr);
            let place = self.ram.addr + TABLE + index * 4;
            // SAFETY: The address is within the RAM, to which no Rust reference exists.
            unsafe { (place as *mut u32).write_volatile(word) };
        }
        let (start, mut writes) = (Instant::now(), 0);
        while start.elapsed() < time {
            self.flip_rounds(span, mark)?;
            writes += ROUNDS * span.pages;
            std::thread::sleep(PAUSE);
        }
        Ok(writes)
    }

    fn flip_rounds(&mut self, span: Span, mark: u64) -> Outcome {
        let regs = self.run(&raw const ksm_v_machine_flip, |regs| {
            regs.rsi = span.addr;
            regs.rcx = span.pages;
            regs.rbx = mark;
            regs.rdx = ROUNDS;
            regs.rbp = TABLE;
        })?;
        if regs.rdx == 0 {
            return Ok(());
        }
        let expected = self.word(TABLE + regs.rdi * 4);
        Err(format!(
            "page {} of {span:?}, round {} of {ROUNDS}: the guest wrote {expected:#x} and \
             read {:#x}",
            regs.rdi,
            ROUNDS - regs.rdx,
            regs.rax
        ))
    }

    /// Reads a word of the RAM from the host.
    fn word(&self, address: u64) -> u32 {
        // SAFETY: The address is within the RAM, to which no Rust reference exists.
        unsafe { ((self.ram.addr + address) as *const u32).read_volatile() }
    }

    /// Runs a program until it halts, and returns its registers.
    fn run(&mut self, program: *const u8, set: impl FnOnce(&mut kvm_regs)) -> Outcome<kvm_regs> {
        let mut regs = kvm_regs {
            rip: offset(program) as u64,
            rflags: RFLAGS_FIXED,
            ..Default::default()
        };
        set(&mut regs);
        self.vcpu.set_regs(&regs).map_err(text)?;
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::Hlt) => return self.vcpu.get_regs().map_err(text),
                Ok(exit) => return Err(format!("expected the guest to halt, found {exit:?}")),
                // A signal or a similar interruption: run again.
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
                Err(error) => return Err(format!("KVM_RUN: {error}")),
            }
        }
    }
}

fn text(error: kvm_ioctls::Error) -> String {
    format!("KVM: {error}")
}

/// The offset of a program from the first program.
fn offset(program: *const u8) -> usize {
    program as usize - &raw const ksm_v_machine_begin as usize
}

fn copy_programs(addr: u64) {
    let length = offset(&raw const ksm_v_machine_end);
    assert!(length <= PAGE_SIZE as usize, "the programs are one page");
    // SAFETY: The bytes between the two labels are initialised and constant.
    let bytes = unsafe { std::slice::from_raw_parts(&raw const ksm_v_machine_begin, length) };
    // SAFETY: The caller passes memory of its own, of at least one page.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), addr as *mut u8, length) };
}

/// Sets flat 4 GiB segments without paging. Everything else stays as after a CPU reset.
fn enter_protected_mode(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = vcpu.get_sregs()?;
    let data = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: 16,
        type_: 3, // read, write, accessed
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        selector: 8,
        type_: 11, // execute, read, accessed
        ..data
    };
    sregs.ds = data;
    sregs.es = data;
    sregs.ss = data;
    sregs.cr0 |= CR0_PE;
    vcpu.set_sregs(&sregs)
}
