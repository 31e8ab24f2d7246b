// SPDX-License-Identifier: GPL-2.0

/* <linux/memcontrol.h> */
#include "shim.h"

int ksm_v_mem_cgroup_charge(struct folio *folio, struct mm_struct *mm, gfp_t gfp)
{
	return mem_cgroup_charge(folio, mm, gfp);
}

struct task_struct *ksm_v_mm_owner(struct mm_struct *mm)
{
	return rcu_dereference(mm->owner);
}
