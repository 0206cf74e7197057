defmodule Leash.Stdio.ReadyLine do
  # Looks for the line of stdout that `ready:` waits for, in bytes as they come.
  #
  # A regex with the modifier `u` takes only UTF-8 and gets lines as the log shows them. If a read
  # cuts a character, the character waits for its rest. Any other regex gets the bytes. An
  # unfinished line is checked as well: a prompt without a line feed is as good a sign as a line.
  @moduledoc false

  alias Leash.Stdio.Lines
  alias Leash.Text

  @enforce_keys [:regex, :unicode?]
  defstruct [:regex, :unicode?, rest: "", skip: 0]

  @typedoc """
  The state of the search.

  `rest` is the unfinished line. Its first `skip` bytes stand for its forgotten beginning.
  """
  @type t :: %__MODULE__{
          regex: Regex.t(),
          unicode?: boolean(),
          rest: binary(),
          skip: 0..4
        }

  # Only the end of a longer line is kept. A match that is longer than that is not found.
  @longest 65_536
  @kept 4_096

  @spec new(Regex.t()) :: t()
  def new(regex), do: %__MODULE__{regex: regex, unicode?: unicode?(regex)}

  # The representation of a regex's modifiers differs between versions of Elixir.
  defp unicode?(regex) do
    _match = Regex.match?(regex, <<0xFF>>)
    false
  rescue
    ArgumentError -> true
  end

  @doc "Returns `:match` if a line matches with these bytes, otherwise the next state."
  @spec push(t(), binary()) :: :match | t()
  def push(ready, data) do
    {ended, rest} = Lines.split(ready.rest <> data, ["\n", "\r"])

    # Only the first line was begun before.
    following = if ended == [], do: ready, else: %{ready | skip: 0}

    if any?(ended, ready) or matches?(following, complete(following, rest)),
      do: :match,
      else: shorten(%{following | rest: rest})
  end

  defp any?([], _ready), do: false
  defp any?([line | lines], ready), do: matches?(ready, line) or any?(lines, %{ready | skip: 0})

  defp complete(%{unicode?: true}, rest), do: Text.complete(rest)
  defp complete(_bytes, rest), do: rest

  defp matches?(%{regex: regex, skip: skip} = ready, line) do
    line = if ready.unicode?, do: Text.printable(line), else: line
    Regex.run(regex, line, offset: min(skip, byte_size(line)), return: :index) != nil
  end

  defp shorten(%{rest: rest} = ready) when byte_size(rest) <= @longest, do: ready

  defp shorten(%{rest: rest} = ready) do
    {_forgotten, kept} = Text.split(rest, byte_size(rest) - @kept)
    # An ASCII character keeps its length when the text is made printable.
    %{ready | rest: "." <> kept, skip: 1}
  end
end
