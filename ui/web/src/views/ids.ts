// Element ids that more than one view needs.

export const SEARCH_ID = 'search';
