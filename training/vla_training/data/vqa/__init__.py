# SPDX-License-Identifier: Apache-2.0
"""Questions about pictures, and their answers, as a vision-language model learns from them."""
