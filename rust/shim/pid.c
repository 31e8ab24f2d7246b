// SPDX-License-Identifier: GPL-2.0

/* <linux/pid.h>, <linux/pid_namespace.h> */
#include "shim.h"

struct pid *ksm_v_find_ge_pid(int nr)
{
	return find_ge_pid(nr, &init_pid_ns);
}

int ksm_v_pid_nr(struct pid *pid)
{
	return pid_nr(pid);
}
