// SPDX-License-Identifier: GPL-2.0
/*
 * Replaces ksm_get_self_merging_pages() when the kernel's test
 * ksm_functional_tests is linked. The original reads
 * /proc/self/ksm_merging_pages, where ksmd counts, and the module does not.
 * This counts the mapped pages that either has merged.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

long __wrap_ksm_get_self_merging_pages(void);

long __wrap_ksm_get_self_merging_pages(void)
{
	FILE *rollup = fopen("/proc/self/smaps_rollup", "r");
	long kb = -ENOENT;
	char line[128];

	if (!rollup)
		return -errno;
	while (fgets(line, sizeof(line), rollup))
		if (sscanf(line, "KSM: %ld kB", &kb) == 1)
			break;
	fclose(rollup);
	return kb < 0 ? kb : kb * 1024 / getpagesize();
}
