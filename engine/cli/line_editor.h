// Reads lines from the terminal with editing, history and completion (libedit).
#pragma once

#include <histedit.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace sluice::cli {

/// $XDG_STATE_HOME/sluice/history or ~/.local/state/sluice/history; empty when neither variable is set.
std::filesystem::path history_path();

class LineEditor {
 public:
  enum class Status { kLine, kInterrupted, kEnd };

  /// `completions` are what Tab completes at the beginning of a line. The history is read from `history_file`
  /// and written to it (mode 0600) after every line; an empty path keeps none.
  LineEditor(std::vector<std::string> completions, std::filesystem::path history_file);

  /// Fills `line`, without its line break. kInterrupted is Ctrl-C, kEnd is Ctrl-D on an empty line.
  Status read(const std::string& prompt, std::string& line);

 private:
  struct EndEditor {
    void operator()(EditLine* editor) const { el_end(editor); }
  };
  struct EndHistory {
    void operator()(History* history) const { history_end(history); }
  };
  static LineEditor& self(EditLine* editor);
  static char* prompt_of(EditLine* editor);
  static unsigned char complete(EditLine* editor, int key);
  static unsigned char interrupt(EditLine* editor, int key);
  unsigned char complete_word(EditLine* editor);
  void bind_keys();
  void open_history();
  void remember(const char* line);

  std::vector<std::string> completions_;
  std::filesystem::path history_file_;
  std::unique_ptr<History, EndHistory> history_;
  std::unique_ptr<EditLine, EndEditor> editor_;
  std::string prompt_;
  bool interrupted_ = false;
};

}  // namespace sluice::cli
