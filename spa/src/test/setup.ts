/**
 * What a test waits for may take as long as the test. A part of the page that is loaded when it is first shown takes
 * a second and more on a busy machine, which is as long as either library waits by itself.
 */
import { configure } from '@testing-library/svelte';
import { vi } from 'vitest';

const PATIENCE = 15_000;

configure({ asyncUtilTimeout: PATIENCE });

const { waitFor } = vi;
vi.waitFor = (callback, options = PATIENCE) => waitFor(callback, options);
