// libedit behind a class: callbacks find it through libedit's client data.
#include "engine/cli/line_editor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <langinfo.h>
#include <unistd.h>

#include <algorithm>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <system_error>

#include "engine/cli/terminal.h"
#include "quant/base/error.h"

namespace sluice::cli {
namespace {

constexpr int kHistoryLines = 1000;

// libedit reads characters through the locale; without one for UTF-8 it would take bytes for characters.
void choose_utf8_locale() {
  std::setlocale(LC_CTYPE, "");
  if (std::string_view(nl_langinfo(CODESET)) != "UTF-8") std::setlocale(LC_CTYPE, "C.UTF-8");
}

std::string common_prefix(const std::vector<std::string>& words) {
  std::string prefix = words.front();
  for (const std::string& word : words) {
    const auto [end, other] = std::mismatch(prefix.begin(), prefix.end(), word.begin(), word.end());
    prefix.erase(end, prefix.end());
  }
  return prefix;
}

}  // namespace

std::filesystem::path history_path() {
  const char* const state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && *state == '/') return std::filesystem::path(state) / "sluice" / "history";
  const char* const home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') return {};
  return std::filesystem::path(home) / ".local" / "state" / "sluice" / "history";
}

LineEditor::LineEditor(std::vector<std::string> completions, std::filesystem::path history_file)
    : completions_(std::move(completions)), history_file_(std::move(history_file)), history_(history_init()) {
  choose_utf8_locale();
  editor_.reset(el_init("sluice", stdin, is_terminal(STDOUT_FILENO) ? stdout : stderr, stderr));
  if (editor_ == nullptr || history_ == nullptr)
    throw Error("terminal", "line editing", "that it cannot start");
  el_set(editor_.get(), EL_CLIENTDATA, this);
  el_set(editor_.get(), EL_PROMPT, &LineEditor::prompt_of);
  el_set(editor_.get(), EL_EDITOR, "emacs");
  el_set(editor_.get(), EL_SIGNAL, 1);  // follows changes of the window's size
  bind_keys();
  open_history();
}

void LineEditor::bind_keys() {
  char* const end = nullptr;
  el_set(editor_.get(), EL_ADDFN, "complete-command", "Complete a command", &LineEditor::complete);
  el_set(editor_.get(), EL_BIND, "^I", "complete-command", end);
  // While a line is edited Ctrl-C is a key like others; the terminal makes a signal of it only outside.
  el_set(editor_.get(), EL_ADDFN, "interrupt-line", "Give the line up", &LineEditor::interrupt);
  el_set(editor_.get(), EL_BIND, "^C", "interrupt-line", end);
  el_set(editor_.get(), EL_SETTY, "-d", "-isig", end);
  el_set(editor_.get(), EL_BIND, "^R", "em-inc-search-prev", end);
}

// A history that cannot be kept is no reason to refuse a chat.
void LineEditor::open_history() {
  HistEvent event;
  history(history_.get(), &event, H_SETSIZE, kHistoryLines);
  history(history_.get(), &event, H_SETUNIQUE, 1);
  el_set(editor_.get(), EL_HIST, history, history_.get());
  if (history_file_.empty()) return;
  std::error_code failure;
  std::filesystem::create_directories(history_file_.parent_path(), failure);
  const int file = open(history_file_.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (file < 0) {
    history_file_.clear();
    return;
  }
  close(file);
  history(history_.get(), &event, H_LOAD, history_file_.c_str());
}

void LineEditor::remember(const char* line) {
  HistEvent event;
  history(history_.get(), &event, H_ENTER, line);
  if (!history_file_.empty()) history(history_.get(), &event, H_SAVE, history_file_.c_str());
}

LineEditor::Status LineEditor::read(const std::string& prompt, std::string& line) {
  prompt_ = prompt;
  interrupted_ = false;
  int length = 0;
  const char* const text = el_gets(editor_.get(), &length);
  if (interrupted_) return Status::kInterrupted;
  if (text == nullptr || length <= 0) return Status::kEnd;
  line.assign(text);
  while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
  if (!line.empty()) remember(line.c_str());
  return Status::kLine;
}

LineEditor& LineEditor::self(EditLine* editor) {
  void* data = nullptr;
  el_get(editor, EL_CLIENTDATA, &data);
  return *static_cast<LineEditor*>(data);
}

char* LineEditor::prompt_of(EditLine* editor) {
  return self(editor).prompt_.data();
}

unsigned char LineEditor::interrupt(EditLine* editor, int /*key*/) {
  self(editor).interrupted_ = true;
  return CC_NEWLINE;
}

unsigned char LineEditor::complete(EditLine* editor, int /*key*/) {
  return self(editor).complete_word(editor);
}

unsigned char LineEditor::complete_word(EditLine* editor) {
  const LineInfo* const info = el_line(editor);
  const std::string_view word(info->buffer, static_cast<size_t>(info->cursor - info->buffer));
  std::vector<std::string> matches;
  for (const std::string& completion : completions_) {
    if (!word.empty() && completion.starts_with(word)) matches.push_back(completion);
  }
  if (matches.empty()) return CC_ERROR;
  const std::string prefix = common_prefix(matches);
  const std::string rest = prefix.substr(word.size()) + (matches.size() == 1 ? " " : "");
  if (!rest.empty()) return el_insertstr(editor, rest.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
  write_all(STDERR_FILENO, fmt::format("\n{}\n", fmt::join(matches, "  ")));
  return CC_REDISPLAY;
}

}  // namespace sluice::cli
