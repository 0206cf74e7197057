defmodule Leash.Stdio.Terminal do
  # The end of input that is typed into a terminal.
  #
  # A terminal has no end that could be closed. A program sees the end of its input when the
  # terminal's end-of-file character is typed at the beginning of a line. Elsewhere that character
  # hands on the unfinished line, and a second one is the end (termios(3), VEOF).
  @moduledoc false

  alias Leash.Native

  @typedoc "The byte that was typed last, `nil` before the first one."
  @type last :: byte() | nil

  @doc "Returns the byte that was typed last, after these data."
  @spec last(last(), binary()) :: last()
  def last(before, ""), do: before
  def last(_before, data), do: :binary.last(data)

  @doc "Returns what to type so that the program sees the end of its input."
  @spec eof(Native.fd(), last()) :: binary()
  def eof(fd, last) do
    case Native.terminal_eof(fd) do
      # _POSIX_VDISABLE: there is no such character.
      {:ok, {0, _by_line?}} -> ""
      {:ok, {eof, true}} when last not in [nil, ?\n, ?\r, eof] -> <<eof, eof>>
      {:ok, {eof, _by_line?}} -> <<eof>>
      {:error, _closed} -> ""
    end
  end
end
