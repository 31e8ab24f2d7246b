# SPDX-License-Identifier: GPL-2.0
"""ksmv, the administrator's tool of ksm_v. The executable `ksmv` beside this file runs it."""
