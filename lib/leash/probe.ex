defmodule Leash.Probe do
  # One question to a worker: does it answer? `ready:` asks until it does, `health:` again and
  # again.
  @moduledoc false

  alias Leash.Callback
  alias Leash.Probe.{Address, HTTP}

  @type t ::
          {:tcp, :inet.port_number() | {String.t(), :inet.port_number()}}
          | {:unix, Path.t()}
          | {:http, HTTP.target()}
          | (() -> term())
          | {module(), atom(), [term()]}

  @typedoc "The reason why a worker is not well."
  @type reason ::
          :timeout
          | {:status, 100..999}
          | {:returned, term()}
          | {:raised, term()}
          | atom()
          | tuple()

  @doc false
  @spec expected() :: String.t()
  def expected do
    "#{addresses()}, a function without arguments or {module, function, args}"
  end

  @doc "Returns what is expected of an address."
  @spec addresses() :: String.t()
  def addresses do
    "{:tcp, port}, {:tcp, {\"host\", port}}, {:unix, \"/absolute/path\"}, " <>
      "{:http, target} (#{HTTP.expected()})"
  end

  @doc "Returns the quoted type of an address."
  @spec typespec() :: Macro.t()
  def typespec do
    quote do
      {:tcp, :inet.port_number() | {String.t(), :inet.port_number()}}
      | {:unix, Path.t()}
      | {:http, unquote(HTTP.typespec())}
    end
  end

  @doc false
  @spec check(term()) :: {:ok, t()} | {:error, String.t()}
  def check(value), do: if(valid?(value), do: {:ok, value}, else: {:error, expected()})

  @doc false
  @spec valid?(term()) :: boolean()
  def valid?({:tcp, target}), do: Address.tcp(target) != :error
  def valid?({:unix, path}), do: Address.unix?(path)
  def valid?({:http, target}), do: HTTP.parse(target) != :error

  def valid?({module, function, args}),
    do: is_atom(module) and is_atom(function) and is_list(args)

  def valid?(check), do: is_function(check, 0)

  @doc "Returns whether it is a function, whose answer `judge/1` judges, and not a connection."
  @spec function?(term()) :: boolean()
  def function?({kind, _target}) when kind in [:tcp, :unix, :http], do: false
  def function?(_function), do: true

  @doc "Asks once for a connection, and gives up after so many milliseconds."
  @spec connect(t(), non_neg_integer()) :: :ok | {:error, reason()}
  def connect({:tcp, target}, ms) do
    {:ok, {addresses, port}} = Address.tcp(target)
    deadline = now() + ms
    left = fn -> max(0, deadline - now()) end

    with {:ok, socket} <- Address.connect(addresses, port, [], left),
         do: :gen_tcp.close(socket)
  end

  def connect({:unix, path}, ms) do
    with {:ok, socket} <- :gen_tcp.connect({:local, path}, 0, [:local, active: false], ms),
         do: :gen_tcp.close(socket)
  end

  def connect({:http, target}, ms) do
    {:ok, target} = HTTP.parse(target)

    case HTTP.status(target, ms) do
      {:ok, status} when status in 200..299 -> :ok
      {:ok, status} -> {:error, {:status, status}}
      {:error, reason} -> {:error, reason}
    end
  end

  @doc "Judges a function's answer: `true`, `:ok` and `{:ok, term}` are good."
  @spec judge({:ok, term()} | {:error, Callback.failure()}) :: :ok | {:error, reason()}
  def judge({:ok, good}) when good in [true, :ok], do: :ok
  def judge({:ok, {:ok, _term}}), do: :ok
  def judge({:ok, other}), do: {:error, {:returned, other}}
  def judge({:error, {:timeout, _ms}}), do: {:error, :timeout}
  def judge({:error, {:error, exception, _stacktrace}}), do: {:error, {:raised, exception}}
  def judge({:error, {kind, reason, _stacktrace}}), do: {:error, {:raised, {kind, reason}}}

  defp now, do: System.monotonic_time(:millisecond)
end
