/* SPDX-License-Identifier: GPL-2.0 */
/* The address space of a process. */
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>

/* Release it with mmput(); NULL if the process has none. */
static inline struct mm_struct *mm_of(int nr)
{
	struct pid *pid = find_get_pid(nr);
	struct task_struct *task = get_pid_task(pid, PIDTYPE_TGID);
	struct mm_struct *mm = task ? get_task_mm(task) : NULL;

	put_pid(pid);
	if (task)
		put_task_struct(task);
	return mm;
}
