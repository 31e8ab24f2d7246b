// SPDX-License-Identifier: GPL-2.0

/* <linux/timekeeping.h> */
#include "shim.h"

u64 ksm_v_ktime_get_boottime_ns(void)
{
	return ktime_get_boottime_ns();
}
