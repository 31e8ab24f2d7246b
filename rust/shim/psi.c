// SPDX-License-Identifier: GPL-2.0

/* <linux/psi.h>: how long tasks wait for memory. */

#include "shim.h"
#include <linux/psi.h>
#include <linux/sched/loadavg.h>

/*
 * The percentage of the last ten seconds in which some task waited for memory, as
 * reported by /proc/pressure/memory; 0 if the kernel does not count that.
 */
unsigned long ksm_v_memory_pressure(void)
{
#ifdef CONFIG_PSI
	const struct psi_group *system = ksm_v_psi_system();

	if (system)
		return LOAD_INT(READ_ONCE(system->avg[PSI_MEM_SOME][0]));
#endif
	return 0;
}
