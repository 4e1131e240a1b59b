# SPDX-License-Identifier: Apache-2.0
"""Recordings in, LeRobot datasets out: conversion, validation, labels, loading."""
