// SPDX-License-Identifier: GPL-2.0
/*
 * What the kernel's test ksm_functional_tests is linked with in place of its
 * own ksm_get_self_merging_pages(), which reads /proc/self/ksm_merging_pages:
 * ksmd counts there, the module does not. This counts the mapped pages that
 * are merged, whoever merged them.
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
