import type { Component } from 'svelte';

export type Icon = Component<{ size?: number; 'aria-hidden'?: boolean }>;

/** One line of a menu. */
export interface MenuAction {
  label: string;
  icon: Icon;
  run: () => void;
  danger?: boolean;
  disabled?: boolean;
  /** A line above it. */
  apart?: boolean;
}
