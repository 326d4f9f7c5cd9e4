# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for other vendors' Python packages, so that programs written for them run on qgmm unedited."""
