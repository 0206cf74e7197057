defmodule Leash.Stdio.LogLines do
  # Cuts the output of a program into texts for the log.
  #
  #   * A line feed ends a line, and carriage returns before it belong to it.
  #   * If a line is longer than a log backend takes, it goes on in the next text. "…" marks both.
  #   * Other carriage returns are those of a progress bar: the following text overwrites the text
  #     before one. That text is shown at most once a second, and after a second without news.
  #   * Nothing in a text controls a terminal, and all of it is UTF-8.
  @moduledoc false

  alias Leash.Stdio.Lines
  alias Leash.Text

  @enforce_keys [:longest]
  defstruct [:longest, line: "", continued?: false, overwritten: nil, shown: nil, shown_at: nil]

  @typedoc """
  The state of the cutter.

    * `line` - the unfinished line, without the parts that are shown
    * `continued?` - whether there are such parts
    * `overwritten` - the state of a progress bar that waits
    * `shown`, `shown_at` - the last state of this line that was shown, and when (milliseconds)
  """
  @type t :: %__MODULE__{
          longest: pos_integer(),
          line: binary(),
          continued?: boolean(),
          overwritten: binary() | nil,
          shown: binary() | nil,
          shown_at: integer() | nil
        }

  # Logger cuts off texts of more than about 8096 bytes, unless it is configured otherwise.
  @longest 8_000
  # The limit if the label itself is as long as that.
  @shortest 1_000

  @progress_ms 1_000

  @doc "Returns a cutter for lines that are logged behind a label of so many bytes."
  @spec new(non_neg_integer()) :: t()
  def new(label_bytes), do: %__MODULE__{longest: max(@longest - label_bytes, @shortest)}

  @doc "Returns the texts that these bytes complete, at a time in milliseconds."
  @spec push(t(), binary(), integer()) :: {[String.t()], t()}
  def push(lines, data, now) do
    {ended, rest} = Lines.split(lines.line <> data, "\n")
    {texts, lines} = Enum.flat_map_reduce(ended, %{lines | line: ""}, &line(&2, &1, now))
    {more, lines} = unfinished(lines, rest, now)
    {texts ++ more, lines}
  end

  @doc "Returns the milliseconds until `due/2` has something to show if nothing is pushed."
  @spec due_in(t(), integer()) :: pos_integer() | nil
  def due_in(%{overwritten: nil}, _now), do: nil
  def due_in(%{shown_at: nil}, _now), do: @progress_ms
  def due_in(%{shown_at: at}, now), do: max(1, at + @progress_ms - now)

  @doc "Returns the state of a progress bar that waited, if its time has come."
  @spec due(t(), integer()) :: {[String.t()], t()}
  def due(%{overwritten: nil} = lines, _now), do: {[], lines}

  def due(%{shown_at: at} = lines, now) when at != nil and now - at < @progress_ms,
    do: {[], lines}

  def due(%{overwritten: state} = lines, now) do
    {texts, lines} = show(%{lines | overwritten: nil}, state)
    {texts, %{lines | shown: state, shown_at: now}}
  end

  @doc "Returns the rest, at the end of the output."
  @spec finish(t(), integer()) :: {[String.t()], t()}
  def finish(lines, now) do
    if without_returns(lines.line) == "",
      do: {[], %{lines | line: ""}},
      else: any_line(lines, lines.line, now)
  end

  # Nearly all lines are like this.
  defp line(%{line: "", continued?: false, overwritten: nil, shown: nil} = lines, line, now) do
    if byte_size(line) <= lines.longest and Text.plain?(line),
      do: {[line], lines},
      else: any_line(lines, line, now)
  end

  defp line(lines, line, now), do: any_line(lines, line, now)

  defp any_line(lines, line, now) do
    {states, last} = line |> without_returns() |> Lines.split("\r")
    {texts, lines} = overwrite(lines, states, now)
    shown? = last != "" and last == lines.shown
    {shown, lines} = if shown?, do: {[], lines}, else: show(lines, last)
    {texts ++ shown, %{lines | line: "", overwritten: nil, shown: nil}}
  end

  # A carriage return at the end may belong to a line feed that is yet to come.
  defp unfinished(lines, rest, now) do
    text = without_returns(rest)
    returns = if byte_size(text) < byte_size(rest), do: "\r", else: ""
    {states, last} = Lines.split(text, "\r")
    {texts, lines} = overwrite(lines, states, now)
    {shown, last, lines} = show_beginning(lines, last, [])

    overwritten =
      cond do
        shown != [] -> nil
        returns != "" and last not in ["", lines.shown] -> last
        true -> lines.overwritten
      end

    {texts ++ shown, %{lines | line: last <> returns, overwritten: overwritten}}
  end

  defp without_returns(line) do
    size = byte_size(line) - 1

    if size >= 0 and :binary.last(line) == ?\r,
      do: without_returns(binary_part(line, 0, size)),
      else: line
  end

  # If several states came together, only the last could be seen.
  defp overwrite(lines, states, now) do
    case states |> Enum.reverse() |> Enum.find(&(&1 != "")) do
      state when state in [nil, lines.shown] -> {[], lines}
      state -> due(%{lines | overwritten: state}, now)
    end
  end

  # Shows all of a line or state.
  defp show(lines, text) do
    {shown, last, lines} = show_beginning(lines, text, [])
    {printed, lines} = print(lines, last, false)
    {shown ++ printed, lines}
  end

  # Shows parts while the text is too long. The rest may grow.
  defp show_beginning(%{longest: longest} = lines, text, shown) when byte_size(text) <= longest,
    do: {shown, text, lines}

  defp show_beginning(%{longest: longest} = lines, text, shown) do
    {piece, rest} = Text.split(text, longest)
    {printed, lines} = print(lines, piece, true)
    show_beginning(lines, rest, shown ++ printed)
  end

  # The text can become too long, because the replacement of one byte has three bytes.
  defp print(lines, raw, goes_on?) do
    pieces = raw |> Text.printable() |> pieces(lines.longest)
    last = length(pieces) - 1

    texts =
      for {piece, index} <- Enum.with_index(pieces) do
        before = if lines.continued? or index > 0, do: "…", else: ""
        after_it = if goes_on? or index < last, do: "…", else: ""
        before <> piece <> after_it
      end

    {texts, %{lines | continued?: goes_on?}}
  end

  defp pieces(text, longest) do
    case Text.split(text, longest) do
      {text, ""} -> [text]
      {piece, rest} -> [piece | pieces(rest, longest)]
    end
  end
end
