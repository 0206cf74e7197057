defmodule Leash.RunId do
  @moduledoc """
  Run ids are seven characters of base36 (`[0-9a-z]{7}`) that name one life of Leash in one VM.

      iex> Leash.RunId.valid?("s59m65f")
      true
      iex> Leash.RunId.extract(["python3", "worker.py", "--run-id", "s59m65f"])
      {:ok, "s59m65f"}

  Ids come from the operating system's random source, so that VMs which boot in the same second
  differ. There are 36^7, which is 78 thousand million.
  """

  alias Leash.Native

  @typedoc "Seven characters of `0-9` and `a-z`, not all zero."
  @type t :: <<_::56>>

  @flags ["--run-id", "--snakepit-run-id"]

  @doc """
  Returns a new id from the operating system's random source (getrandom(2)).
  """
  @spec generate() :: t()
  def generate do
    id = Native.run_id_generate()
    # getrandom(2) fails only if the kernel does not have it (before Linux 3.17).
    true = is_binary(id)
    id
  end

  @doc """
  Returns whether the term is an id: a binary of seven characters of `0-9` and `a-z`, not all
  zero.

      iex> ids = ["s59m65f", "S59M65F", "s59m65", "s59m65ff", "0000000", "", nil]
      iex> Enum.map(ids, &Leash.RunId.valid?/1)
      [true, false, false, false, false, false, false]
  """
  @spec valid?(term()) :: boolean()
  def valid?("0000000"), do: false

  def valid?(<<id::binary-size(7)>>),
    do: for(<<char <- id>>, reduce: true, do: (ok -> ok and (char in ?0..?9 or char in ?a..?z)))

  def valid?(_other), do: false

  @doc """
  Returns the run id that a command line carries.

  `command` is a list of arguments, as the kernel keeps it, or one string, as `ps` prints it. The
  string is split at white space, which is a guess. Prefer the list if you have one.

  The function looks for `FLAG ID` or `FLAG=ID`, with the flag and the id as whole arguments. The
  first match counts. The function does not look behind a lone `--`, because arguments there are
  text and not options.

  ## Options

    * `:flags` - the flags to look for; default `#{inspect(@flags)}`

  ## Examples

      iex> Leash.RunId.extract("python3 -u worker.py --snakepit-run-id=s59m65f")
      {:ok, "s59m65f"}
      iex> Leash.RunId.extract(["node", "w.js", "--job", "s59m65f"], flags: ["--job"])
      {:ok, "s59m65f"}
      iex> Leash.RunId.extract(["grep", "--", "--run-id=s59m65f"])
      :error
      iex> Leash.RunId.extract(["vi", "notes --run-id=s59m65f.txt"])
      :error
  """
  @spec extract([binary()] | binary(), flags: [String.t()]) :: {:ok, t()} | :error
  def extract(command, options \\ [])

  def extract(command, options) when is_binary(command),
    do: command |> :binary.split([" ", "\t", "\n"], [:global, :trim_all]) |> extract(options)

  def extract(command, options) when is_list(command) do
    flags = Keyword.get(options, :flags, @flags)

    unless is_list(flags) and Enum.all?(flags, &(is_binary(&1) and &1 != "")) do
      raise ArgumentError,
            "expected :flags to be a list of non-empty strings, got: #{inspect(flags)}"
    end

    command |> Enum.take_while(&(&1 != "--")) |> find(flags)
  end

  def extract(command, _options) do
    raise ArgumentError,
          "expected a command line as a list of strings or a string, got: #{inspect(command)}"
  end

  defp find([], _flags), do: :error

  defp find([argument | rest], flags) do
    with :error <- following(argument, rest, flags),
         :error <- joined(argument, flags) do
      find(rest, flags)
    end
  end

  defp following(argument, [id | _rest], flags) do
    if argument in flags and valid?(id), do: {:ok, id}, else: :error
  end

  defp following(_argument, [], _flags), do: :error

  defp joined(argument, flags) do
    Enum.find_value(flags, :error, fn flag ->
      with true <- String.starts_with?(argument, flag <> "="),
           from = byte_size(flag) + 1,
           id = binary_part(argument, from, byte_size(argument) - from),
           true <- valid?(id) do
        {:ok, id}
      else
        _ -> nil
      end
    end)
  end
end
