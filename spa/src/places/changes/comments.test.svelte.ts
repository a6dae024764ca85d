import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import type { ReviewComment } from '../../lib/types';
import { forms } from '../../state/written';
import { fakeServer } from '../../test/fakes';
import { Comments } from './comments.svelte';

const COMMENT: ReviewComment = {
  comment_id: 'c1',
  path: 'a.ts',
  line: 3,
  end_line: 3,
  code: 'x',
  text: 'Why?',
  stale: false,
};

let listed: ReviewComment[];
let comments: Comments;

beforeEach(async () => {
  forms.current = {};
  listed = [COMMENT];
  fakeServer(() => ({ json: listed }));
  comments = new Comments('s');
  await comments.look();
});

afterEach(() => vi.unstubAllGlobals());

function edit(text: string): void {
  const { path, line, end_line, comment_id } = COMMENT;
  comments.begin({ path, line, end_line, comment_id }, COMMENT.text);
  const form = comments.formOf(COMMENT);
  if (form) comments.write(form, text);
}

it('keeps what is being made of a comment, whatever is drawn anew meanwhile', () => {
  edit('Why so late?');
  expect(new Comments('s').formOf(COMMENT)?.text).toBe('Why so late?');
  expect(comments.newOn('a.ts')).toEqual([]);
});

it('lets it live on as a new comment when the one that it changes was sent', async () => {
  edit('Why so late?');
  listed = [];
  await comments.look();
  expect(comments.newOn('a.ts')).toEqual([{ path: 'a.ts', line: 3, end_line: 3, text: 'Why so late?' }]);
});
