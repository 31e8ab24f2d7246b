// SPDX-License-Identifier: GPL-2.0

/* <linux/sched.h>, <linux/sched/coredump.h>, <linux/sched/mm.h>, <linux/sched/signal.h>, <linux/sched/task.h> */
#include "shim.h"

bool ksm_v_task_is_kthread(const struct task_struct *task)
{
	return task->flags & PF_KTHREAD;
}

u64 ksm_v_task_sum_exec_runtime(const struct task_struct *task)
{
	return READ_ONCE(task->se.sum_exec_runtime);
}

void ksm_v_task_lock(struct task_struct *task)
{
	task_lock(task);
}

void ksm_v_task_unlock(struct task_struct *task)
{
	task_unlock(task);
}

struct mm_struct *ksm_v_task_mm(struct task_struct *task)
{
	return task->mm;
}

struct task_struct *ksm_v_next_thread(struct task_struct *task)
{
	return __next_thread(task);
}

struct task_struct *ksm_v_task_group_leader(const struct task_struct *task)
{
	return READ_ONCE(task->group_leader);
}

struct task_struct *ksm_v_task_real_parent(const struct task_struct *task)
{
	return pid_alive(task) ? rcu_dereference(task->real_parent) : NULL;
}

u64 ksm_v_task_start_time(const struct task_struct *task)
{
	return task->start_boottime;
}

bool ksm_v_task_is_forked(const struct task_struct *task)
{
	return READ_ONCE(task->flags) & PF_FORKNOEXEC;
}

int ksm_v_task_tgid(const struct task_struct *task)
{
	return task->tgid;
}

bool ksm_v_task_is_new(const struct task_struct *task)
{
	return smp_load_acquire(&task->__state) == TASK_NEW;
}

bool ksm_v_task_is_dumpable(struct task_struct *task)
{
	return task_exec_state_get_dumpable(task) == TASK_DUMPABLE_OWNER;
}

void ksm_v_cond_resched_tasks_rcu_qs(void)
{
	cond_resched_tasks_rcu_qs();
}

void ksm_v_get_task_comm(char *buf, struct task_struct *task)
{
	strscpy_pad(buf, task->comm, TASK_COMM_LEN);
}

unsigned int ksm_v_memalloc_noreclaim_save(void)
{
	return memalloc_noreclaim_save();
}

void ksm_v_memalloc_noreclaim_restore(unsigned int flags)
{
	memalloc_noreclaim_restore(flags);
}
