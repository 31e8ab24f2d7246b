/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The tracepoints, events/ksm_v in tracefs, and the numbers that stand for reasons.
 * Documentation/tracing.md says when each is hit and what its fields mean.
 *
 * Rust calls them through rust/trace.rs.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM ksm_v

#ifndef KSM_V_TRACE_REASONS_H
#define KSM_V_TRACE_REASONS_H

#include <linux/mm_types.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>

/* Why a page was not merged: the same as `Refusal` in rust/mm/refusal.rs, which explains each reason. */
#define KSM_V_REFUSALS(EM, LAST)			\
	EM(KSM_V_REFUSED_GONE, "gone")			\
	EM(KSM_V_REFUSED_TARGET_GONE, "target_gone")	\
	EM(KSM_V_REFUSED_BUSY, "busy")			\
	EM(KSM_V_REFUSED_PINNED, "pinned")		\
	EM(KSM_V_REFUSED_DIFFERENT, "different")	\
	EM(KSM_V_REFUSED_CHANGED, "changed")		\
	EM(KSM_V_REFUSED_LEFT_ALONE, "left_alone")	\
	EM(KSM_V_REFUSED_FULL, "full")			\
	EM(KSM_V_REFUSED_INVOLVED, "involved")		\
	EM(KSM_V_REFUSED_NO_MEMORY, "no_memory")	\
	EM(KSM_V_REFUSED_TAGGED, "tagged")		\
	EM(KSM_V_REFUSED_FAILED, "failed")		\
	EM(KSM_V_REFUSED_LOCKED, "locked")		\
	LAST(KSM_V_REFUSED_KEPT_HUGE, "kept_huge")

/* Why the governor chose a share: the same as `Cause` in rust/engine/pace.rs. */
#define KSM_V_PACE_CAUSES(EM, LAST)			\
	EM(KSM_V_PACE_RICH, "rich")			\
	EM(KSM_V_PACE_SHORT, "short")			\
	EM(KSM_V_PACE_STEADY, "steady")			\
	LAST(KSM_V_PACE_POOR, "poor")

/* Why a merged page was broken apart: a write; or a copy without a write, for a pin or by the module. */
#define KSM_V_BREAK_CAUSES(EM, LAST)			\
	EM(KSM_V_BREAK_WRITE, "write")			\
	LAST(KSM_V_BREAK_UNSHARE, "unshare")

/* Why pages were unmerged: 2 was written to run, or memory goes offline. */
#define KSM_V_UNMERGE_CAUSES(EM, LAST)			\
	EM(KSM_V_UNMERGE_RUN, "run")			\
	LAST(KSM_V_UNMERGE_OFFLINE, "offline")

#define KSM_V_ENUMERATOR(value, name) value,
#define KSM_V_SYMBOL(value, name) { value, name },
#define KSM_V_LAST_SYMBOL(value, name) { value, name }

enum ksm_v_refusal {
	KSM_V_REFUSALS(KSM_V_ENUMERATOR, KSM_V_ENUMERATOR)
	KSM_V_REFUSAL_COUNT
};

enum ksm_v_pace_cause {
	KSM_V_PACE_CAUSES(KSM_V_ENUMERATOR, KSM_V_ENUMERATOR)
};

enum ksm_v_break_cause {
	KSM_V_BREAK_CAUSES(KSM_V_ENUMERATOR, KSM_V_ENUMERATOR)
};

enum ksm_v_unmerge_cause {
	KSM_V_UNMERGE_CAUSES(KSM_V_ENUMERATOR, KSM_V_ENUMERATOR)
};

/* In rust/mm/breaks.rs: called when the first user begins to trace ksm_v_break, and when the last one ends. */
int ksm_v_break_reg(void);
void ksm_v_break_unreg(void);

const char *ksm_v_refusal_name(enum ksm_v_refusal refusal);

/* The id, in the initial namespace, of the process that owns an address space; or 0. */
static inline pid_t ksm_v_owner_tgid(struct mm_struct *mm)
{
	struct task_struct *owner;
	pid_t tgid;

	rcu_read_lock();
	owner = rcu_dereference(mm->owner);
	tgid = owner ? owner->tgid : 0;
	rcu_read_unlock();
	return tgid;
}

#endif

#if !defined(KSM_V_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define KSM_V_TRACE_H

#include <linux/tracepoint.h>

/* Exports the values of the enumerators: without this, tools would find only their names in the formats. */
#define KSM_V_DEFINE_ENUM(value, name) TRACE_DEFINE_ENUM(value);

KSM_V_REFUSALS(KSM_V_DEFINE_ENUM, KSM_V_DEFINE_ENUM)
KSM_V_PACE_CAUSES(KSM_V_DEFINE_ENUM, KSM_V_DEFINE_ENUM)
KSM_V_BREAK_CAUSES(KSM_V_DEFINE_ENUM, KSM_V_DEFINE_ENUM)
KSM_V_UNMERGE_CAUSES(KSM_V_DEFINE_ENUM, KSM_V_DEFINE_ENUM)

TRACE_EVENT(ksm_v_start_scan,
	TP_PROTO(u64 pass),
	TP_ARGS(pass),
	TP_STRUCT__entry(
		__field(u64, pass)
	),
	TP_fast_assign(
		__entry->pass = pass;
	),
	TP_printk("pass=%llu", __entry->pass)
);

TRACE_EVENT(ksm_v_stop_scan,
	TP_PROTO(u64 pass, u64 scanned, u64 merged, u64 shared, u64 sharing),
	TP_ARGS(pass, scanned, merged, shared, sharing),
	TP_STRUCT__entry(
		__field(u64, pass)
		__field(u64, scanned)
		__field(u64, merged)
		__field(u64, shared)
		__field(u64, sharing)
	),
	TP_fast_assign(
		__entry->pass = pass;
		__entry->scanned = scanned;
		__entry->merged = merged;
		__entry->shared = shared;
		__entry->sharing = sharing;
	),
	TP_printk("pass=%llu scanned=%llu merged=%llu shared=%llu sharing=%llu",
		  __entry->pass, __entry->scanned, __entry->merged, __entry->shared,
		  __entry->sharing)
);

TRACE_EVENT(ksm_v_merge,
	TP_PROTO(struct mm_struct *mm, unsigned long addr, unsigned long pfn,
		 unsigned long shared_pfn),
	TP_ARGS(mm, addr, pfn, shared_pfn),
	TP_STRUCT__entry(
		__field(pid_t, tgid)
		__field(struct mm_struct *, mm)
		__field(unsigned long, addr)
		__field(unsigned long, pfn)
		__field(unsigned long, shared_pfn)
	),
	TP_fast_assign(
		__entry->tgid = ksm_v_owner_tgid(mm);
		__entry->mm = mm;
		__entry->addr = addr;
		__entry->pfn = pfn;
		__entry->shared_pfn = shared_pfn;
	),
	TP_printk("tgid=%d mm=%p addr=0x%lx pfn=0x%lx shared_pfn=0x%lx",
		  __entry->tgid, __entry->mm, __entry->addr, __entry->pfn,
		  __entry->shared_pfn)
);

TRACE_EVENT(ksm_v_merge_zero,
	TP_PROTO(struct mm_struct *mm, unsigned long addr, unsigned long pfn),
	TP_ARGS(mm, addr, pfn),
	TP_STRUCT__entry(
		__field(pid_t, tgid)
		__field(struct mm_struct *, mm)
		__field(unsigned long, addr)
		__field(unsigned long, pfn)
	),
	TP_fast_assign(
		__entry->tgid = ksm_v_owner_tgid(mm);
		__entry->mm = mm;
		__entry->addr = addr;
		__entry->pfn = pfn;
	),
	TP_printk("tgid=%d mm=%p addr=0x%lx pfn=0x%lx",
		  __entry->tgid, __entry->mm, __entry->addr, __entry->pfn)
);

TRACE_EVENT_FN(ksm_v_break,
	TP_PROTO(struct mm_struct *mm, unsigned long addr, unsigned long pfn, bool zero, u32 cause),
	TP_ARGS(mm, addr, pfn, zero, cause),
	TP_STRUCT__entry(
		__field(pid_t, tgid)
		__field(u32, cause)
		__field(struct mm_struct *, mm)
		__field(unsigned long, addr)
		__field(unsigned long, pfn)
		__field(bool, zero)
	),
	TP_fast_assign(
		__entry->tgid = ksm_v_owner_tgid(mm);
		__entry->cause = cause;
		__entry->mm = mm;
		__entry->addr = addr;
		__entry->pfn = pfn;
		__entry->zero = zero;
	),
	TP_printk("tgid=%d mm=%p addr=0x%lx pfn=0x%lx zero=%d cause=%s",
		  __entry->tgid, __entry->mm, __entry->addr, __entry->pfn, __entry->zero,
		  __print_symbolic(__entry->cause,
				   KSM_V_BREAK_CAUSES(KSM_V_SYMBOL, KSM_V_LAST_SYMBOL))),
	ksm_v_break_reg, ksm_v_break_unreg
);

TRACE_EVENT(ksm_v_refuse,
	TP_PROTO(struct mm_struct *mm, unsigned long addr, unsigned long pfn,
		 unsigned long target_pfn, u32 reason),
	TP_ARGS(mm, addr, pfn, target_pfn, reason),
	TP_STRUCT__entry(
		__field(pid_t, tgid)
		__field(u32, reason)
		__field(struct mm_struct *, mm)
		__field(unsigned long, addr)
		__field(unsigned long, pfn)
		__field(unsigned long, target_pfn)
	),
	TP_fast_assign(
		__entry->tgid = ksm_v_owner_tgid(mm);
		__entry->reason = reason;
		__entry->mm = mm;
		__entry->addr = addr;
		__entry->pfn = pfn;
		__entry->target_pfn = target_pfn;
	),
	TP_printk("tgid=%d mm=%p addr=0x%lx pfn=0x%lx target_pfn=0x%lx reason=%s",
		  __entry->tgid, __entry->mm, __entry->addr, __entry->pfn,
		  __entry->target_pfn,
		  __print_symbolic(__entry->reason,
				   KSM_V_REFUSALS(KSM_V_SYMBOL, KSM_V_LAST_SYMBOL)))
);

TRACE_EVENT(ksm_v_unmerge,
	TP_PROTO(struct mm_struct *mm, u64 pages, int error),
	TP_ARGS(mm, pages, error),
	TP_STRUCT__entry(
		__field(pid_t, tgid)
		__field(int, error)
		__field(struct mm_struct *, mm)
		__field(u64, pages)
	),
	TP_fast_assign(
		__entry->tgid = ksm_v_owner_tgid(mm);
		__entry->error = error;
		__entry->mm = mm;
		__entry->pages = pages;
	),
	TP_printk("tgid=%d mm=%p pages=%llu error=%d",
		  __entry->tgid, __entry->mm, __entry->pages, __entry->error)
);

TRACE_EVENT(ksm_v_unmerge_end,
	TP_PROTO(u32 cause, int error),
	TP_ARGS(cause, error),
	TP_STRUCT__entry(
		__field(u32, cause)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->cause = cause;
		__entry->error = error;
	),
	TP_printk("cause=%s error=%d",
		  __print_symbolic(__entry->cause,
				   KSM_V_UNMERGE_CAUSES(KSM_V_SYMBOL, KSM_V_LAST_SYMBOL)),
		  __entry->error)
);

TRACE_EVENT(ksm_v_pace,
	TP_PROTO(u64 pass, u32 share, u32 previous, u32 cause),
	TP_ARGS(pass, share, previous, cause),
	TP_STRUCT__entry(
		__field(u64, pass)
		__field(u32, share)
		__field(u32, previous)
		__field(u32, cause)
	),
	TP_fast_assign(
		__entry->pass = pass;
		__entry->share = share;
		__entry->previous = previous;
		__entry->cause = cause;
	),
	TP_printk("pass=%llu share=%u previous=%u cause=%s",
		  __entry->pass, __entry->share, __entry->previous,
		  __print_symbolic(__entry->cause,
				   KSM_V_PACE_CAUSES(KSM_V_SYMBOL, KSM_V_LAST_SYMBOL)))
);

TRACE_EVENT(ksm_v_promise,
	TP_PROTO(bool held, u64 available, u64 wanted),
	TP_ARGS(held, available, wanted),
	TP_STRUCT__entry(
		__field(bool, held)
		__field(u64, available)
		__field(u64, wanted)
	),
	TP_fast_assign(
		__entry->held = held;
		__entry->available = available;
		__entry->wanted = wanted;
	),
	TP_printk("held=%d available=%llu wanted=%llu",
		  __entry->held, __entry->available, __entry->wanted)
);

#endif

/* The -I that Kbuild passes for trace.c makes this path work. */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
