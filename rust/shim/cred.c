// SPDX-License-Identifier: GPL-2.0

/* <linux/cred.h>, <linux/user_namespace.h> */
#include "shim.h"

const struct cred *ksm_v_task_cred(struct task_struct *task)
{
	return __task_cred(task);
}

u32 ksm_v_user_ns_root(struct user_namespace *ns)
{
	return __kuid_val(make_kuid(ns, 0));
}

u32 ksm_v_user_ns_owner(const struct user_namespace *ns)
{
	return __kuid_val(ns->owner);
}
