// SPDX-License-Identifier: GPL-2.0

/* <linux/tracepoint.h>: the tracepoints of trace.h, and the functions by which Rust hits them. */
#include "shim.h"
#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "trace.h"

#define KSM_V_NAME(value, name) [value] = name,

/* The name of a reason in the tracepoints; NULL if it is not a reason. */
const char *ksm_v_refusal_name(enum ksm_v_refusal refusal)
{
	static const char *const names[KSM_V_REFUSAL_COUNT] = {
		KSM_V_REFUSALS(KSM_V_NAME, KSM_V_NAME)
	};

	return refusal < KSM_V_REFUSAL_COUNT ? names[refusal] : NULL;
}
