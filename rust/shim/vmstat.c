// SPDX-License-Identifier: GPL-2.0

/* <linux/vmstat.h>: events that the kernel counts. */

#include "shim.h"
#include <linux/vmstat.h>

/*
 * How many merged pages were copied for their writers since the boot: cow_ksm of
 * /proc/vmstat, or 0 if the kernel does not count that.
 *
 * Takes no lock, unlike all_vm_events(): the counts of a CPU that goes offline are
 * added to those of another CPU, so the sum over all possible CPUs has them.
 */
unsigned long ksm_v_cow_ksm_events(void)
{
	unsigned long events = 0;
#if defined(CONFIG_VM_EVENT_COUNTERS) && defined(CONFIG_KSM)
	int cpu;

	for_each_possible_cpu(cpu)
		events += READ_ONCE(per_cpu(vm_event_states, cpu).event[COW_KSM]);
#endif
	return events;
}
