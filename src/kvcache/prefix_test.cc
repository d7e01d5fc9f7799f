#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/hash.h"
#include "base/random.h"
#include "kvcache/page_tables.h"

namespace mesh::kvcache {
namespace {

std::vector<TokenId> text(std::uint32_t tokens, TokenId from = 0) {
  std::vector<TokenId> out;
  for (std::uint32_t i = 0; i < tokens; ++i) out.push_back(from + static_cast<TokenId>(i));
  return out;
}

std::string hex(std::span<const std::uint8_t> bytes) {
  std::string out;
  for (const std::uint8_t byte : bytes) {
    out += "0123456789abcdef"[byte >> 4];
    out += "0123456789abcdef"[byte & 15];
  }
  return out;
}

std::vector<std::uint32_t> numbers(std::span<const PageId> pages) {
  std::vector<std::uint32_t> out;
  for (const PageId page : pages) out.push_back(page.value);
  return out;
}

// Used, cached and free pages as "2/1/3".
std::string counts(const PageTables& tables) {
  return std::to_string(tables.used()) + "/" + std::to_string(tables.cached()) + "/" +
         std::to_string(tables.free_pages());
}

// Runs a text through a sequence of its own, which ends then.
void run_through(PageTables& tables, std::uint64_t id, const std::vector<TokenId>& tokens) {
  ASSERT_TRUE(tables.open(SequenceId{id}, static_cast<std::uint32_t>(tokens.size()), {}).ok());
  tables.computed(SequenceId{id}, tokens);
  ASSERT_TRUE(tables.release(SequenceId{id}));
}

TEST(PrefixKeys, AreTheDigestsOfParentAndIds) {
  EXPECT_EQ(hex(sha256(as_bytes(std::string_view("abc")))),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const auto keys = page_keys(text(191), 3);
  ASSERT_EQ(keys.size(), 2u);
  EXPECT_EQ(hex(keys[0]), "887e1b17b2352bea59a5213a79362e1b");
  EXPECT_EQ(hex(keys[1]), "cbdf4d477fd7dd904028a65b3849de2f");
  std::vector<TokenId> negative;
  for (TokenId i = 0; i < 64; ++i) negative.push_back(-1 - i);
  EXPECT_EQ(hex(next_key(kRootKey, negative)), "77956ac7c534c7762fdfbcfcb5816e57");
  EXPECT_EQ(key_from(key_bytes(keys[1])), keys[1]);
  EXPECT_FALSE(key_from(std::string(15, 'x')).has_value());
  EXPECT_FALSE(key_from(std::string(17, 'x')).has_value());
}

TEST(PrefixCache, ASecondSequenceSharesWhatTheFirstHasComputed) {
  PageTables tables(20);
  const auto tokens = text(200);
  const auto keys = page_keys(tokens, 99);
  EXPECT_EQ(*tables.open(SequenceId{1}, 256, keys), 0u);
  tables.computed(SequenceId{1}, std::span(tokens).first(100));
  EXPECT_EQ(*tables.open(SequenceId{2}, 256, keys), 64u);
  tables.computed(SequenceId{1}, std::span(tokens).subspan(100));
  EXPECT_EQ(*tables.open(SequenceId{3}, 256, keys), 192u);
  EXPECT_EQ(numbers(tables.pages(SequenceId{2})), (std::vector<std::uint32_t>{1, 5, 6, 7}));
  EXPECT_EQ(numbers(tables.pages(SequenceId{3})), (std::vector<std::uint32_t>{1, 2, 3, 8}));
  EXPECT_EQ(counts(tables), "8/0/11");
  EXPECT_TRUE(tables.release(SequenceId{1}));
  EXPECT_EQ(counts(tables), "7/0/12");
  EXPECT_TRUE(tables.release(SequenceId{3}));
  EXPECT_EQ(counts(tables), "4/2/13");
  EXPECT_TRUE(tables.release(SequenceId{2}));
  EXPECT_EQ(counts(tables), "0/3/16");
  // One position at least stays to be computed.
  EXPECT_EQ(*tables.open(SequenceId{4}, 192, keys), 128u);
  EXPECT_EQ(*tables.open(SequenceId{5}, 193, keys), 192u);
  EXPECT_EQ(tables.open(SequenceId{5}, 193, keys).error().code, Code::kInvalidArgument);
}

TEST(PrefixCache, EvictsLeastRecentlyUsedAndLeavesBeforeParents) {
  PageTables tables(7);
  const auto a = text(128), b = text(128, 1000);
  run_through(tables, 1, a);
  run_through(tables, 2, b);
  EXPECT_EQ(counts(tables), "0/4/2");
  ASSERT_TRUE(tables.open(SequenceId{3}, 3 * 64, {}).ok());
  EXPECT_EQ(counts(tables), "3/3/0");
  EXPECT_EQ(tables.cache().find(page_keys(a, 2)).size(), 1u);
  EXPECT_EQ(tables.cache().find(page_keys(b, 2)).size(), 2u);
  ASSERT_TRUE(tables.extend(SequenceId{3}, 5 * 64).ok());
  EXPECT_EQ(tables.cache().find(page_keys(a, 2)).size(), 0u);
  EXPECT_EQ(tables.cache().find(page_keys(b, 2)).size(), 1u);
  // What a sequence would share is not there to be taken for it.
  EXPECT_EQ(tables.open(SequenceId{4}, 65, page_keys(b, 1)).error().code, Code::kResourceExhausted);
  EXPECT_EQ(counts(tables), "5/1/0");
}

TEST(PrefixCache, UseKeepsPagesFromBeingEvicted) {
  PageTables tables(7);
  const auto a = text(128), b = text(128, 1000);
  run_through(tables, 1, a);
  run_through(tables, 2, b);
  ASSERT_EQ(*tables.open(SequenceId{3}, 129, page_keys(a, 2)), 128u);
  tables.release(SequenceId{3});
  ASSERT_TRUE(tables.open(SequenceId{4}, 4 * 64, {}).ok());
  EXPECT_EQ(tables.cache().find(page_keys(a, 2)).size(), 2u);
  EXPECT_EQ(tables.cache().find(page_keys(b, 2)).size(), 0u);
}

TEST(PrefixCache, PagesThatASequencePinsAreNotTakenForItself) {
  PageTables tables(4);
  const auto a = text(128);
  run_through(tables, 1, a);
  EXPECT_EQ(counts(tables), "0/2/1");
  const auto refused = tables.open(SequenceId{2}, 257, page_keys(a, 2));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  EXPECT_EQ(refused.error().message, "3 KV pages wanted for 257 positions, 1 of 3 free");
  EXPECT_EQ(counts(tables), "0/2/1");
  EXPECT_EQ(*tables.open(SequenceId{2}, 192, page_keys(a, 2)), 128u);
  EXPECT_EQ(tables.extend(SequenceId{2}, 193).error().message,
            "1 KV pages wanted for 193 positions, 0 of 3 free");
  EXPECT_EQ(tables.extend(SequenceId{9}, 1).error().code, Code::kNotFound);
  EXPECT_EQ(counts(tables), "3/0/0");
}

// Two sequences compute the same first page at once: the second one's stays private, its next page
// hangs below the first one's and loses its name when that is taken.
TEST(PrefixCache, APageWhoseParentIsTakenLosesItsKeyAndKeepsItsOwner) {
  PageTables tables(7);
  const auto tokens = text(256);
  ASSERT_TRUE(tables.open(SequenceId{1}, 64, {}).ok());
  ASSERT_TRUE(tables.open(SequenceId{2}, 256, {}).ok());
  tables.computed(SequenceId{1}, std::span(tokens).first(64));
  tables.computed(SequenceId{2}, std::span(tokens).first(128));
  EXPECT_EQ(numbers(tables.cache().find(page_keys(tokens, 4))), (std::vector<std::uint32_t>{1, 3}));
  tables.release(SequenceId{1});
  EXPECT_EQ(counts(tables), "4/1/1");
  ASSERT_TRUE(tables.open(SequenceId{3}, 128, {}).ok());
  EXPECT_EQ(counts(tables), "6/0/0");
  EXPECT_TRUE(tables.cache().find(page_keys(tokens, 4)).empty());
  EXPECT_EQ(tables.cache().key(PageId{3}), kRootKey);
  tables.computed(SequenceId{2}, std::span(tokens).subspan(128));
  tables.release(SequenceId{2});
  EXPECT_EQ(counts(tables), "2/0/4");
}

TEST(PrefixCache, BeginSwapsWhatTheRouteComputesAgain) {
  PageTables tables(8);
  const auto tokens = text(192);
  const auto keys = page_keys(tokens, 3);
  run_through(tables, 1, tokens);
  EXPECT_EQ(*tables.open(SequenceId{2}, 256, keys), 192u);
  for (const std::uint32_t first : {1u, 63u, 256u, 0xFFFFFFC0u})
    EXPECT_EQ(tables.begin(SequenceId{2}, first).error().code, Code::kInvalidArgument);
  EXPECT_EQ(tables.begin(SequenceId{9}, 0).error().code, Code::kNotFound);
  ASSERT_TRUE(tables.begin(SequenceId{2}, 64).ok());
  const auto mine = numbers(tables.pages(SequenceId{2}));
  EXPECT_EQ(mine.size(), 4u);
  EXPECT_EQ(counts(tables), "4/2/1");
  const auto held = numbers(tables.cache().find(keys));
  EXPECT_EQ(mine[0], held[0]);
  for (const std::size_t i : {1u, 2u, 3u})
    EXPECT_EQ(std::count(held.begin(), held.end(), mine[i]), 0) << i;
  tables.computed(SequenceId{2}, std::span(tokens).subspan(64));
  EXPECT_EQ(tables.begin(SequenceId{2}, 64).error().code, Code::kInvalidArgument);
  EXPECT_EQ(numbers(tables.cache().find(keys)), held);
}

TEST(PrefixCache, BeginIsRefusedWhenOthersHoldThePagesAndNoneIsLeft) {
  PageTables tables(5);
  const auto tokens = text(128);
  run_through(tables, 1, tokens);
  EXPECT_EQ(*tables.open(SequenceId{2}, 129, page_keys(tokens, 2)), 128u);
  EXPECT_EQ(*tables.open(SequenceId{3}, 129, page_keys(tokens, 2)), 128u);
  const auto before = numbers(tables.pages(SequenceId{3}));
  const auto refused = tables.begin(SequenceId{3}, 64);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  EXPECT_EQ(numbers(tables.pages(SequenceId{3})), before);
  tables.release(SequenceId{2});
  EXPECT_TRUE(tables.begin(SequenceId{3}, 0).ok());
  EXPECT_EQ(counts(tables), "3/1/0");
}

TEST(PrefixCache, KeysOutOfPlaceMatchNothing) {
  PageTables tables(40);
  const auto tokens = text(192);
  const auto keys = page_keys(tokens, 3);
  run_through(tables, 1, tokens);
  const std::vector<std::vector<PageKey>> hostile = {
      {keys[1]},          {keys[1], keys[0]}, {kRootKey}, {kRootKey, keys[0]},
      {PageKey{1, 2, 3}}, {keys[2], keys[2]}, {}};
  for (const auto& list : hostile) {
    EXPECT_EQ(*tables.open(SequenceId{2}, 1000, list), 0u);
    tables.release(SequenceId{2});
  }
  EXPECT_EQ(*tables.open(SequenceId{2}, 1000, std::vector{keys[0], keys[0], keys[0]}), 64u);
  EXPECT_EQ(*tables.open(SequenceId{3}, 1000, std::vector{keys[0], keys[2], keys[1]}), 64u);
}

TEST(PrefixCache, WithoutReuseNothingIsSharedOrKept) {
  PageTables tables(20, false);
  const auto tokens = text(192);
  ASSERT_TRUE(tables.open(SequenceId{1}, 192, {}).ok());
  tables.computed(SequenceId{1}, tokens);
  EXPECT_EQ(*tables.open(SequenceId{2}, 256, page_keys(tokens, 3)), 0u);
  tables.release(SequenceId{1});
  EXPECT_EQ(counts(tables), "4/0/15");
}

TEST(PrefixCache, ForgetKeepsPagesInUseAndSharesThemNoMore) {
  PageTables tables(20);
  const auto tokens = text(256);
  run_through(tables, 1, tokens);
  EXPECT_EQ(*tables.open(SequenceId{2}, 300, page_keys(tokens, 2)), 128u);
  tables.forget();
  EXPECT_EQ(counts(tables), "5/0/14");
  EXPECT_TRUE(tables.begin(SequenceId{2}, 64).ok());
  tables.computed(SequenceId{2}, std::span(tokens).subspan(64));
  EXPECT_EQ(*tables.open(SequenceId{3}, 300, page_keys(tokens, 3)), 0u);
  tables.release(SequenceId{2});
  EXPECT_EQ(counts(tables), "5/0/14");
}

// The naive model: every position of every page holds a digest of all tokens up to it. Each
// sequence must read its own text, whatever its neighbours do.
class Model {
 public:
  explicit Model(std::uint64_t seed)
      : random_(seed),
        reuse_(seed % 5 != 0),
        pages_(static_cast<std::uint32_t>(2 + random_.below(40))),
        tables_(pages_, reuse_),
        twin_(pages_, reuse_),
        content_(pages_) {}

  void run(int steps) {
    for (int step = 0; step < steps && !::testing::Test::HasFatalFailure(); ++step) {
      const std::uint64_t id = random_.below(8);
      if (!sequences_.contains(id)) {
        open(id);
      } else {
        act(id);
      }
      check();
    }
    while (!sequences_.empty()) release(sequences_.begin()->first);
    check();
    EXPECT_EQ(tables_.used(), 0u);
    tables_.forget();
    EXPECT_EQ(tables_.free_pages(), pages_ - 1);
  }
  std::uint64_t shared_positions() const { return shared_positions_; }
  std::uint64_t swapped_pages() const { return swapped_pages_; }

 private:
  struct Sequence {
    std::vector<TokenId> text;  // at least up to `next`
    std::uint32_t next = 0;
    std::uint32_t floor = 0;  // positions before it were shared at open()
    bool moved = false;
  };
  struct State {
    std::map<std::uint64_t, std::vector<std::uint32_t>> pages;
    std::vector<PageKey> keys;
    std::uint32_t used, cached;
    bool operator==(const State&) const = default;
  };

  // Pages of few kinds, so that texts often start alike.
  std::vector<TokenId> draw_text(std::uint32_t tokens) {
    std::vector<TokenId> out;
    while (out.size() < tokens) {
      const auto kind = static_cast<TokenId>(random_.below(out.empty() ? 2 : 3));
      for (TokenId i = 0; i < 64; ++i) out.push_back(kind == 2 ? draw() : kind * 64 + i);
    }
    out.resize(tokens);
    return out;
  }
  TokenId draw() { return static_cast<TokenId>(random_.below(1u << 20)); }

  std::vector<PageKey> draw_hostile(const std::vector<PageKey>& honest) {
    std::vector<PageKey> keys = honest;
    for (std::uint64_t i = random_.below(4); i > 0; --i) {
      PageKey key{};
      for (auto& byte : key) byte = static_cast<std::uint8_t>(random_.below(256));
      if (!known_.empty() && random_.below(3) > 0) {
        auto at = known_.begin();
        std::advance(at, static_cast<std::ptrdiff_t>(random_.below(known_.size())));
        key = at->first;
      }
      keys.insert(keys.begin() + static_cast<std::ptrdiff_t>(random_.below(keys.size() + 1)), key);
    }
    for (std::size_t i = 0; i + 1 < keys.size(); ++i)
      if (random_.below(3) == 0) std::swap(keys[i], keys[random_.below(keys.size())]);
    if (!keys.empty() && random_.below(2) == 0) keys.insert(keys.begin(), keys.front());
    if (!keys.empty() && random_.below(2) == 0) keys.resize(2000, keys.back());
    return keys;
  }

  std::size_t owners(PageId page) const {
    std::size_t count = 0;
    for (const auto& [id, sequence] : sequences_) {
      const auto pages = tables_.pages(SequenceId{id});
      count += static_cast<std::size_t>(std::count(pages.begin(), pages.end(), page));
    }
    return count;
  }

  State state() const {
    State out;
    for (const auto& [id, sequence] : sequences_)
      out.pages[id] = numbers(tables_.pages(SequenceId{id}));
    for (std::uint32_t page = 1; page < pages_; ++page)
      out.keys.push_back(tables_.cache().key(PageId{page}));
    out.used = tables_.used();
    out.cached = tables_.cached();
    return out;
  }

  void open(std::uint64_t id) {
    Sequence sequence;
    sequence.text = draw_text(static_cast<std::uint32_t>(1 + random_.below(500)));
    const auto prompt = static_cast<std::uint32_t>(sequence.text.size());
    std::vector<PageKey> keys = page_keys(sequence.text, (prompt - 1) / 64);
    const bool hostile = random_.below(4) == 0;
    if (hostile) keys = draw_hostile(keys);
    const auto positions = static_cast<std::uint32_t>(prompt + random_.below(300));
    const State before = state();
    const auto usable =
        std::span(keys).first(std::min<std::size_t>(keys.size(), (positions - 1) / 64));
    const std::vector<PageId> found = tables_.cache().find(usable);
    std::size_t wanted = pages_for(positions) - found.size();
    for (const PageId page : found) wanted += owners(page) == 0 ? 1 : 0;
    const bool fits = wanted <= pages_ - 1 - tables_.used();
    const auto opened = tables_.open(SequenceId{id}, positions, keys);
    const auto twin = twin_.open(SequenceId{id}, positions, keys);
    ASSERT_EQ(opened.ok(), fits);
    ASSERT_EQ(twin.ok(), fits);
    if (!fits) {
      ASSERT_EQ(opened.error().code, Code::kResourceExhausted);
      ASSERT_TRUE(state() == before);
      return;
    }
    ASSERT_EQ(*opened, *twin);
    ASSERT_EQ(*opened, found.size() * 64);
    ASSERT_LT(*opened, positions);
    if (!reuse_) {
      ASSERT_EQ(*opened, 0u);
    }
    // Whose keys match reads the text that they name.
    if (hostile && *opened > 0) {
      ASSERT_TRUE(known_.contains(keys[*opened / 64 - 1]));
      sequence.text = known_.at(keys[*opened / 64 - 1]);
      ASSERT_EQ(sequence.text.size(), *opened);
    }
    sequence.next = sequence.floor = *opened;
    shared_positions_ += *opened;
    sequences_[id] = sequence;
  }

  void act(std::uint64_t id) {
    Sequence& sequence = sequences_.at(id);
    const auto what = random_.below(12);
    if (what < 2) {
      release(id);
    } else if (what < 4) {
      begin(id, sequence);
    } else if (what < 5) {
      extend(id);
    } else if (what == 5 && random_.below(20) == 0) {
      tables_.forget();
      twin_.forget();
    } else {
      compute(id, sequence);
    }
  }

  void release(std::uint64_t id) {
    ASSERT_TRUE(tables_.release(SequenceId{id}));
    ASSERT_TRUE(twin_.release(SequenceId{id}));
    ASSERT_FALSE(tables_.release(SequenceId{id}));
    sequences_.erase(id);
  }

  void begin(std::uint64_t id, Sequence& sequence) {
    const auto first = static_cast<std::uint32_t>(
        random_.below(4) == 0 ? random_.below(700) : 64 * random_.below(sequence.next / 64 + 1));
    const State before = state();
    const bool valid = !sequence.moved && first % 64 == 0 && first <= sequence.next;
    const auto begun = tables_.begin(SequenceId{id}, first);
    ASSERT_EQ(twin_.begin(SequenceId{id}, first).ok(), begun.ok());
    if (begun.ok()) {
      ASSERT_TRUE(valid);
      swapped_pages_ += (sequence.next - first) / 64;
      sequence.next = sequence.floor = first;
      return;
    }
    ASSERT_EQ(begun.error().code, valid ? Code::kResourceExhausted : Code::kInvalidArgument);
    ASSERT_TRUE(state() == before);
  }

  void extend(std::uint64_t id) {
    const std::size_t held = tables_.pages(SequenceId{id}).size();
    const auto positions = static_cast<std::uint32_t>(1 + random_.below(1200));
    const std::size_t more = std::max<std::size_t>(pages_for(positions), held) - held;
    const State before = state();
    const bool fits = more <= pages_ - 1 - tables_.used();
    ASSERT_EQ(tables_.extend(SequenceId{id}, positions).ok(), fits);
    ASSERT_EQ(twin_.extend(SequenceId{id}, positions).ok(), fits);
    if (!fits) {
      ASSERT_TRUE(state() == before);
    }
  }

  void compute(std::uint64_t id, Sequence& sequence) {
    const auto pages = tables_.pages(SequenceId{id});
    const auto room = static_cast<std::uint32_t>(pages.size()) * 64 - sequence.next;
    const auto rows =
        std::min<std::uint32_t>(room, static_cast<std::uint32_t>(1 + random_.below(150)));
    while (sequence.text.size() < sequence.next + rows) sequence.text.push_back(draw());
    for (std::uint32_t p = sequence.next; p < sequence.next + rows; ++p) {
      const PageId page = pages[p / 64];
      ASSERT_EQ(owners(page), 1u) << "a shared page " << page.value << " is written";
      ASSERT_EQ(tables_.cache().key(page), kRootKey) << "a keyed page is written";
      content_[page.value].resize(64);
      content_[page.value][p % 64] = digest(sequence.text, p);
    }
    const auto tokens = std::span(sequence.text).subspan(sequence.next, rows);
    tables_.computed(SequenceId{id}, tokens);
    twin_.computed(SequenceId{id}, tokens);
    sequence.next += rows;
    sequence.moved = sequence.moved || rows > 0;
    const auto keys = page_keys(sequence.text, sequence.next / 64);
    for (std::size_t i = 0; i < keys.size(); ++i)
      known_[keys[i]].assign(sequence.text.begin(),
                             sequence.text.begin() + static_cast<std::ptrdiff_t>(64 * (i + 1)));
  }

  // Of the tokens [0, p].
  static std::uint64_t digest(const std::vector<TokenId>& tokens, std::uint32_t p) {
    return xxh3_64(std::as_bytes(std::span(tokens).first(p + 1)));
  }

  void check() {
    std::set<PageId> used;
    for (const auto& [id, sequence] : sequences_) {
      const auto pages = tables_.pages(SequenceId{id});
      ASSERT_EQ(numbers(pages), numbers(twin_.pages(SequenceId{id}))) << "twins differ";
      ASSERT_EQ(std::set<PageId>(pages.begin(), pages.end()).size(), pages.size());
      for (const PageId page : pages) {
        ASSERT_GT(page.value, 0u);
        ASSERT_LT(page.value, pages_);
        used.insert(page);
      }
      for (std::uint32_t p = 0; p < sequence.next; ++p)
        ASSERT_EQ(content_[pages[p / 64].value].at(p % 64), digest(sequence.text, p))
            << "sequence " << id << " reads another text at " << p;
    }
    ASSERT_EQ(tables_.used(), used.size());
    ASSERT_EQ(tables_.used() + tables_.cached() + tables_.free_pages(), pages_ - 1);
    ASSERT_EQ(tables_.sequences(), sequences_.size());
    std::map<PageKey, PageId> keyed;
    std::uint32_t cached = 0;
    for (std::uint32_t page = 1; page < pages_; ++page) {
      const PageKey& key = tables_.cache().key(PageId{page});
      ASSERT_EQ(tables_.cache().owners(PageId{page}), owners(PageId{page}));
      if (key == kRootKey) continue;
      ASSERT_TRUE(keyed.emplace(key, PageId{page}).second) << "two pages under one key";
      cached += used.contains(PageId{page}) ? 0 : 1;
    }
    ASSERT_EQ(tables_.cached(), cached);
    for (const auto& [key, page] : keyed) {
      const std::vector<TokenId>& tokens = known_.at(key);
      const auto end = static_cast<std::uint32_t>(tokens.size());
      for (std::uint32_t i = 0; i < 64; ++i)
        ASSERT_EQ(content_[page.value].at(i), digest(tokens, end - 64 + i));
      const auto chain = page_keys(tokens, end / 64);
      ASSERT_TRUE(chain.size() == 1 || keyed.contains(chain[chain.size() - 2]))
          << "page " << page.value << " outlives its parent";
      ASSERT_EQ(tables_.cache().find(chain).size(), chain.size());
    }
  }

  Prng random_;
  bool reuse_;
  std::uint32_t pages_;
  PageTables tables_, twin_;
  std::vector<std::vector<std::uint64_t>> content_;  // [page][slot]
  std::map<std::uint64_t, Sequence> sequences_;
  std::map<PageKey, std::vector<TokenId>> known_;  // every key that a page has ever had
  std::uint64_t shared_positions_ = 0, swapped_pages_ = 0;
};

TEST(PrefixCache, EverySequenceReadsItsOwnTextInRandomWalks) {
  std::uint64_t shared = 0, swapped = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Model model(seed);
    model.run(250);
    if (HasFatalFailure()) return;
    shared += model.shared_positions();
    swapped += model.swapped_pages();
  }
  EXPECT_GT(shared, 5'000u);  // the walk meets what it is about
  EXPECT_GT(swapped, 20u);
}

}  // namespace
}  // namespace mesh::kvcache
