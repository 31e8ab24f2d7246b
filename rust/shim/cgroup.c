// SPDX-License-Identifier: GPL-2.0

/* <linux/cgroup.h> */
#include "shim.h"

u64 ksm_v_task_cgroup_id(struct task_struct *task)
{
	return cgroup_id(task_dfl_cgroup(task));
}
