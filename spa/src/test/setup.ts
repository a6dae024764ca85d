/**
 * What a test waits for may take as long as the test. A part of the page that is loaded when it is first shown takes
 * a second and more on a busy machine, which is as long as the library waits by itself.
 */
import { configure } from '@testing-library/svelte';

configure({ asyncUtilTimeout: 15_000 });
