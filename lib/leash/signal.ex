defmodule Leash.Signal do
  # Signal names as this library writes them (`:sigterm`, as in `System.trap_signal/3`), and their
  # numbers on Linux, which are the same on x86-64 and aarch64 (signal(7)).
  @moduledoc false

  alias Leash.Suggestion

  @numbers [
    sighup: 1,
    sigint: 2,
    sigquit: 3,
    sigill: 4,
    sigtrap: 5,
    sigabrt: 6,
    sigbus: 7,
    sigfpe: 8,
    sigkill: 9,
    sigusr1: 10,
    sigsegv: 11,
    sigusr2: 12,
    sigpipe: 13,
    sigalrm: 14,
    sigterm: 15,
    sigstkflt: 16,
    sigchld: 17,
    sigcont: 18,
    sigstop: 19,
    sigtstp: 20,
    sigttin: 21,
    sigttou: 22,
    sigurg: 23,
    sigxcpu: 24,
    sigxfsz: 25,
    sigvtalrm: 26,
    sigprof: 27,
    sigwinch: 28,
    sigio: 29,
    sigpwr: 30,
    sigsys: 31
  ]

  # The names without "sig", which all have in common.
  @short_names for {name, _number} <- @numbers,
                   do: name |> Atom.to_string() |> String.trim_leading("sig") |> String.to_atom()

  # They are short, and one letter of five is a lot.
  @near 0.85

  @typedoc "A signal by name, or a real-time signal by number."
  @type t ::
          unquote(
            Enum.reduce(Keyword.keys(@numbers), quote(do: 32..64), fn name, rest ->
              quote(do: unquote(name) | unquote(rest))
            end)
          )

  @doc "Returns every name, in the order of the numbers."
  @spec names() :: [atom()]
  def names, do: Keyword.keys(@numbers)

  @doc "Returns the number for a name or number, or `:error` for what is no signal."
  @spec number(term()) :: {:ok, 1..64} | :error
  def number(number) when is_integer(number) and number in 1..64, do: {:ok, number}
  def number(name) when is_atom(name), do: Keyword.fetch(@numbers, name)
  def number(_other), do: :error

  @doc "Returns the number for a name or number, or the error of an option."
  @spec check(term()) :: {:ok, 1..64} | {:error, Leash.OptionsError.t()}
  def check(signal) do
    with :error <- number(signal) do
      expected = "a signal such as :sigterm, or a number from 1 to 64"
      Leash.Schema.error(:signal, expected, signal, hint(signal))
    end
  end

  @doc "Returns a hint for what is no signal: `:term`, `:SIGTERM`, `\"TERM\"`, `:sigtrem`."
  @spec hint(term()) :: String.t() | nil
  def hint(wrong) when (is_atom(wrong) or is_binary(wrong)) and wrong != nil do
    short = wrong |> to_string() |> String.downcase() |> String.replace_prefix("sig", "")
    meant = Suggestion.nearest(short, @short_names, @near)
    if meant, do: Suggestion.did_you_mean(:"sig#{meant}")
  end

  def hint(_other), do: nil

  @doc "Returns the name for a number. Real-time signals have no name and stay numbers."
  @spec name(1..64) :: t()
  for {name, number} <- @numbers do
    def name(unquote(number)), do: unquote(name)
  end

  def name(number) when is_integer(number), do: number
end
