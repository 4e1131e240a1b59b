# SPDX-License-Identifier: Apache-2.0
"""Returns, advantages and indicators as columns of a dataset."""
